"""What the finder is held against: the same rules, one tag after the other in plain Python."""

from __future__ import annotations

from dataclasses import dataclass

from bellwire.tags.settings import FinderSettings
from bellwire.tags.stream import CLOCK

Tag = tuple[int, int]
"""Time in picoseconds, channel."""

Coincidence = tuple[int, int, str, int, tuple[int, int], tuple[int, int]]
"""Window, attempt, Bell state, when the attempt began, times and channels of the clicks."""


@dataclass(frozen=True)
class Outcome:
    found: list[Coincidence]
    late: int
    attempts: int
    clicks: int
    dead: int
    outside: int
    single: int
    crowded: int
    unmatched: int


def in_time(tags: list[Tag], horizon_ps: int) -> list[Tag]:
    kept, newest_ps = [], -(2**62)
    for time_ps, channel in tags:
        newest_ps = max(newest_ps, time_ps)
        if time_ps >= newest_ps - horizon_ps:
            kept.append((time_ps, channel))
    return kept


def alive(tags: list[Tag], detectors: tuple[int, ...], dead_ps: int) -> list[Tag]:
    kept, last_ps = [], dict.fromkeys(detectors, -(2**62))
    for time_ps, channel in tags:
        if time_ps - last_ps[channel] >= dead_ps or dead_ps == 0:
            kept.append((time_ps, channel))
            last_ps[channel] = time_ps
    return kept


def attempt_begins(ordered: list[Tag], settings: FinderSettings) -> list[tuple[int, int, int]]:
    """All attempts as (begin, window, number), up to the last tag."""
    if not ordered:
        return []
    end_ps = ordered[-1][0]
    if settings.start is None:
        starts = [-(2**62) if settings.period_ps is None else settings.origin_ps]
    else:
        starts = [time_ps for time_ps, channel in ordered if channel == settings.start]
    begins = []
    for window, start_ps in enumerate(starts, 1):
        until_ps = starts[window] if window < len(starts) else end_ps + 1
        if settings.period_ps is None:
            times = [t for t, channel in ordered if channel == settings.trigger and start_ps <= t < until_ps]
        else:
            times = list(range(start_ps, until_ps, settings.period_ps))
        begins += [(time_ps, window, number) for number, time_ps in enumerate(times, 1)]
    return begins


def outcome(tags: list[Tag], settings: FinderSettings) -> Outcome:
    """Find the coincidences of a whole stream."""
    delays = dict(settings.delays_ps)
    timely = in_time(tags, settings.horizon_ps)
    ordered = sorted(((t - delays.get(channel, 0), channel) for t, channel in timely), key=lambda tag: tag[0])
    clicks = [tag for tag in ordered if tag[1] in settings.detectors and tag[1] != CLOCK]
    living = alive(clicks, settings.detectors, settings.dead_time_ps)
    attempts = attempt_begins(ordered, settings)
    starts = [time_ps for time_ps, channel in ordered if channel == settings.start]
    counts = dict.fromkeys(("outside", "single", "crowded", "unmatched"), 0)
    gated: dict[int, list[tuple[int, int, int]]] = {}
    for time_ps, channel in living:
        begun = [place for place, (begin_ps, _, _) in enumerate(attempts) if begin_ps <= time_ps]
        place = begun[-1] if begun else None
        last_start_ps = max((start_ps for start_ps in starts if start_ps <= time_ps), default=-(2**62))
        if place is not None and attempts[place][0] < last_start_ps:
            place = None
        for gate, (begin_ps, end_ps) in enumerate(settings.gates_ps):
            if place is not None and begin_ps <= time_ps - attempts[place][0] < end_ps:
                gated.setdefault(place, []).append((time_ps, channel, gate))
                break
        else:
            counts["outside"] += 1
    found = []
    for place, hits in sorted(gated.items()):
        state = pattern(hits, settings) if len(hits) == 2 else None
        if len(hits) == 1:
            counts["single"] += 1
        elif len(hits) > 2:
            counts["crowded"] += 1
        elif state is None:
            counts["unmatched"] += 1
        else:
            begin_ps, window, number = attempts[place]
            (one_ps, one, _), (two_ps, two, _) = hits
            found.append((window, number, state, begin_ps, (one_ps, two_ps), (one, two)))
    return Outcome(
        found=found,
        late=len(tags) - len(timely),
        attempts=len(attempts),
        clicks=len(clicks),
        dead=len(clicks) - len(living),
        **counts,
    )


def pattern(hits: list[tuple[int, int, int]], settings: FinderSettings) -> str | None:
    (_, one, first), (_, two, second) = hits
    for left, right, state in settings.patterns:
        if len(settings.gates_ps) == 1:
            if {one, two} == {left, right} and one != two:
                return str(state)
        elif (one, two) == (left, right) and (first, second) == (0, 1):
            return str(state)
    return None
