"""What tests give to other processes to do: they import it from here."""

from __future__ import annotations

import os
import signal

from bellwire.protocols.errors import ErrorCode, RequestError


def square(number: int) -> int:
    return number * number


def refuse_three(number: int) -> int:
    if number == 3:
        raise RequestError(ErrorCode.NORES, "three is too many")
    return number


def die_of_three(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number
