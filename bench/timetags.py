"""How fast coincidences are found in time tags, beside plain NumPy passes over the same tags in the same run.

Time on the processor counts, of all threads together: what else the machine does hardly matters.

`rare` is a stream as of Main et al., Nature 638, 383 (2025): an arm's efficiency is 1.7 %, so that one attempt in 7,000
heralds, and nearly every tag is a trigger. `rich` has no triggers but a period, and a photon in three is seen: every tag is a
click, and one in six belongs to a coincidence. `file` is `rare`, read from a file that was just written.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from bellwire.tags.files import Recorder, open_tags
from bellwire.tags.finder import Search
from bellwire.tags.settings import FinderSettings
from bellwire.tags.simulate import TRIGGER, SimulatedTagger, SimulationSettings
from bellwire.tags.stream import Tags

RARE = SimulationSettings(efficiencies=(0.0168, 0.0168), dark_hz=50.0)
RICH = SimulationSettings(efficiencies=(0.33, 0.33), dark_hz=50.0)
ATTEMPTS = 20_000_000


def _without_triggers(settings: SimulationSettings, parts: Iterable[Tags]) -> tuple[FinderSettings, Iterable[Tags]]:
    """The same attempts, found by their period."""
    finder = settings.finder()
    by_period = FinderSettings(
        period_ps=settings.period_ps,
        gates_ps=finder.gates_ps,
        patterns=finder.patterns,
        dead_time_ps=finder.dead_time_ps,
    )
    clicks = ((tags, tags.channels != TRIGGER) for tags in parts)
    return by_period, (Tags(tags.times_ps[kept], tags.channels[kept]) for tags, kept in clicks)


class _Watch:
    """Adds up the time of calls."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self, call: Callable[[], object]) -> None:
        began = time.process_time()
        call()
        self.seconds += time.process_time() - began


def _stream(name: str, finder: FinderSettings, parts: Iterable[Tags]) -> dict[str, float]:
    search, number = Search(finder), 0
    found, difference, sort = _Watch(), _Watch(), _Watch()
    for tags in parts:
        number += len(tags)
        found(lambda tags=tags: search.feed(tags))  # type: ignore[misc]
        difference(lambda tags=tags: np.diff(tags.times_ps))  # type: ignore[misc]
        sort(lambda tags=tags: np.sort(tags.times_ps))  # type: ignore[misc]
    found(search.finish)
    heralds = sum(search.counts.heralds.values())
    return {
        f"timetags_{name}_found_per_s": number / found.seconds,
        f"timetags_{name}_in_coincidences_ratio": 2 * heralds / number,
        f"timetags_{name}_found_per_diff_ratio": found.seconds / difference.seconds,
        f"timetags_{name}_found_per_sort_ratio": found.seconds / sort.seconds,
    }


def _file(directory: Path, parts: Iterable[Tags]) -> dict[str, float]:
    path = directory / "bench.tags"
    with Recorder(path, RARE.header()) as recorder:
        for tags in parts:
            recorder.write(tags)
    search = Search(RARE.finder())
    began = time.process_time()
    for tags in open_tags(path).chunks():
        search.feed(tags)
    search.finish()
    return {"timetags_file_found_per_s": recorder.tags / (time.process_time() - began)}


def measure(scale: float = 1.0) -> dict[str, float]:
    """Tags per second that are searched, and how much slower that is than a pass of `np.diff` or `np.sort`."""
    attempts = max(100_000, int(ATTEMPTS * scale))

    def simulated(settings: SimulationSettings) -> Iterable[Tags]:
        tagger = SimulatedTagger(settings, np.random.default_rng(1))
        return (tags for tags, _ in tagger.window(attempts))

    figures = _stream("rare", RARE.finder(), simulated(RARE))
    figures |= _stream("rich", *_without_triggers(RICH, simulated(RICH)))
    with tempfile.TemporaryDirectory(prefix="bellwire-bench-") as directory:
        figures |= _file(Path(directory), simulated(RARE))
    return figures
