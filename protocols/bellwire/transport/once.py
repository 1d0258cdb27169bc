"""Reports that people read: what may be so for long is said once."""

from __future__ import annotations

from collections.abc import Callable


class Once:
    """Passes a line on to `report`, if there is one, but the same line only once until there is another."""

    def __init__(self, report: Callable[[str], None] | None) -> None:
        self._report = report
        self._last = ""

    def __call__(self, text: str) -> None:
        """Report a line, unless it was the last one."""
        if self._report is not None and text != self._last:
            self._report(text)
        self._last = text

    def forget(self) -> None:
        """What was so is over: should it come again, it is to be said again."""
        self._last = ""
