"""`load.c`, compiled when it is first asked for: yardsticks and load at the speed of C."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

SOURCE = Path(__file__).with_name("load.c")


@cache
def program() -> Path | None:
    """The compiled program, or `None` without a C compiler or the headers of libzmq (Debian: libzmq3-dev)."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    made = Path(mkdtemp(prefix="bellwire-load-")) / "load"
    result = subprocess.run([compiler, "-O2", "-o", made, SOURCE, "-lzmq"], capture_output=True, check=False)
    return made if result.returncode == 0 else None


def ping_pong(rounds: int = 20_000) -> dict[str, float]:
    """Round trips of 100 bytes over REQ/REP on loopback, in microseconds; nothing where it cannot be compiled."""
    load = program()
    if load is None:
        return {}
    result = subprocess.run([load, "pingpong", str(rounds)], capture_output=True, text=True, timeout=60, check=True)
    p50, p99 = (int(word) / 1e3 for word in result.stdout.split())
    return {"native_pingpong_p50_us": p50, "native_pingpong_p99_us": p99}
