"""Work in virtual time, spread over the cores of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from random import Random
from typing import Any, Final, TypeVar

from bellwire.protocols.errors import BellwireError

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD: Final = 4
"""Items that are handed out before their results are asked for, for each process."""


def derived_seed(seed: int, part: str) -> int:
    """The seed of a part of some work: the same wherever the part is done, and unlike those of the other parts."""
    return Random(f"{seed}/{part}").getrandbits(63)


def spread(function: Callable[[Item], Result], items: Sequence[Item], jobs: int) -> Iterator[Result]:
    """Call a function with every item, on as many processes, and give the results in the order of the items.

    With more than one process, the function, items and results are pickled. When the caller stops, what has not begun does not
    begin, and what has is waited for: items should be small.

    Raises:
        BellwireError: what the function raised, or that a process has died.
    """
    jobs = min(jobs, len(items))
    if jobs <= 1:
        yield from map(function, items)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_end_with_parent)
    waiting: deque[Future[Result | _Raised]] = deque()
    try:
        for item in items:
            with _uninterrupted():
                waiting.append(pool.submit(_call, function, item))
            if len(waiting) >= AHEAD * jobs:
                yield _result(waiting.popleft())
        while waiting:
            yield _result(waiting.popleft())
    except BrokenProcessPool:
        raise BellwireError("a process of the simulation has died; was there enough memory?") from None
    finally:
        pool.shutdown(cancel_futures=True)


@dataclass(frozen=True, slots=True)
class _Raised:
    """An error on its way between processes: most of ours cannot be made again of their text alone."""

    kind: type[BellwireError]
    arguments: tuple[Any, ...]
    attributes: dict[str, Any]

    def error(self) -> BellwireError:
        error = self.kind.__new__(self.kind, *self.arguments)
        error.__dict__.update(self.attributes)
        return error


def _result(future: Future[Result | _Raised]) -> Result:
    result = future.result()
    if isinstance(result, _Raised):
        raise result.error()
    return result


def _call(function: Callable[[Item], Result], item: Item) -> Result | _Raised:
    try:
        return function(item)
    except BellwireError as error:
        return _Raised(type(error), error.args, dict(error.__dict__))


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let processes begin that never hear of Ctrl-C: a terminal tells all, and whoever has begun them sees to their end."""
    resource_tracker.ensure_running()  # Or it begins within, and ends the blocking.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent() -> None:
    """A worker that waits for work would not notice that nobody is left to give it any."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
