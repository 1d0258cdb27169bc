"""Rewrites the tables and diagrams of the specification from the code: `python protocols/spec/generate.py [--check]`."""

from __future__ import annotations

import sys
from pathlib import Path

from bellwire.protocols.describe import refresh


def main(arguments: list[str]) -> int:
    """Rewrite every chapter beside this file; with `--check` only say which ones are not up to date."""
    stale = []
    for path in sorted(Path(__file__).parent.glob("[0-9]*.md")):
        text = path.read_text(encoding="utf-8")
        made = refresh(text)
        if made != text:
            stale.append(path.name)
            if "--check" not in arguments:
                path.write_text(made, encoding="utf-8")
    if stale:
        sys.stderr.write(f"{'out of date' if '--check' in arguments else 'rewritten'}: {', '.join(stale)}\n")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
