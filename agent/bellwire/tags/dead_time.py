"""Dead time: a detector that has clicked is not believed again for a while, as its afterpulses and ringing are no photons."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bellwire.tags.stream import BEFORE_ALL_PS, Times

Numbers = npt.NDArray[np.int8]
Mask = npt.NDArray[np.bool_]


class DeadTime:
    """Drops the clicks of a detector that come within `dead_ps` of one of its clicks that was kept.

    A dropped click extends nothing. Fed with a stream in parts, it drops what it would drop in the whole.
    """

    def __init__(self, dead_ps: int, detectors: int) -> None:
        self._dead_ps = dead_ps
        self._last_ps = np.full(detectors, BEFORE_ALL_PS, dtype=np.int64)

    def alive(self, times_ps: Times, detectors: Numbers) -> Mask | None:
        """Tell which clicks are kept, shape (n,); None for all of them. Times have to be in order."""
        if self._dead_ps == 0 or not len(times_ps):
            return None
        near = np.diff(times_ps) < self._dead_ps
        first_far = int(np.searchsorted(times_ps, int(self._last_ps.max()) + self._dead_ps))
        if not first_far and not near.any():
            self._keep(times_ps, detectors)
            return None
        # A click is dropped only for one of the same detector that is near, and then the click just before it, of whatever
        # detector, is near as well: all others are kept, and few are left to look at.
        suspects = np.zeros(len(times_ps), dtype=np.bool_)
        suspects[:first_far] = True
        suspects[1:] |= near
        suspects[:-1] |= near
        alive = np.ones(len(times_ps), dtype=np.bool_)
        place = np.flatnonzero(suspects)
        for detector in np.unique(detectors[place]):
            mine = place[detectors[place] == detector]
            alive[mine] = self._alive_of_one(times_ps[mine], int(self._last_ps[detector]))
        self._keep(times_ps, detectors, alive)
        return alive

    def _keep(self, times_ps: Times, detectors: Numbers, alive: Mask | None = None) -> None:
        """Remember the last click of each detector, of those that a later click can be near to."""
        last = int(np.searchsorted(times_ps, times_ps[-1] - self._dead_ps))
        kept = slice(last, None) if alive is None else last + np.flatnonzero(alive[last:])
        self._last_ps[detectors[kept]] = times_ps[kept]  # a detector's last one stays

    def _alive_of_one(self, times_ps: Times, last_ps: int) -> Mask:
        """Tell which clicks of one detector are kept, when `last_ps` was its last one before."""
        number = len(times_ps)
        first = int(np.searchsorted(times_ps, last_ps + self._dead_ps))
        alive = np.zeros(number + 1, dtype=np.bool_)
        alive[first] = True
        # Far from the click before it, a click is kept whatever became of that one.
        alive[first + 1 : number] = np.diff(times_ps[first:]) >= self._dead_ps
        # From each of these, follow "the next click that is far enough" 1, 2, 4, 8 … steps at once.
        following = np.append(np.searchsorted(times_ps, times_ps + self._dead_ps), number)
        before, known = -1, int(np.count_nonzero(alive))
        while known != before:
            alive[following[alive]] = True
            following = following[following]
            before, known = known, int(np.count_nonzero(alive))
        return alive[:number]
