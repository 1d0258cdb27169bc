"""What holds for every test."""

from __future__ import annotations

import signal

from hypothesis import Phase, settings

# A shell that starts the tests in the background lets them, and every process that they start, ignore Ctrl-C. Tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Explaining a failure traces every line, which makes long stories take minutes.
QUICK_PHASES = (Phase.explicit, Phase.generate, Phase.shrink)
settings.register_profile("deterministic", deadline=None, derandomize=True, database=None, phases=QUICK_PHASES)
settings.register_profile("deep", deadline=None, database=None, max_examples=5_000, phases=QUICK_PHASES)
settings.load_profile("deterministic")
