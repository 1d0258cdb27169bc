"""What holds for every test."""

from __future__ import annotations

import signal

# A shell that starts the tests in the background lets them, and every process that they start, ignore Ctrl-C. Tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)
