"""`python -m bellwire.shell`: the same as `bellwire`."""

from __future__ import annotations

from bellwire.shell.main import main

if __name__ == "__main__":
    main()
