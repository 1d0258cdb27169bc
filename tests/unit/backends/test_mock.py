from __future__ import annotations

import dataclasses

import msgspec
import pytest
from recording import RecordingSink

from bellwire.backends.interface import BackendContext
from bellwire.backends.mock import MockBackend, create_backend
from bellwire.protocols.errors import BackendError, ConfigError
from bellwire.protocols.hardware_clock import ClockClaim
from bellwire.protocols.ids import LinkId, QubitName, WindowId
from bellwire.protocols.instructions import (
    Arm,
    BellState,
    Cancel,
    Done,
    Failed,
    Initialise,
    Measure,
    Measured,
    WindowEnded,
)
from bellwire.protocols.messages import ClockState
from bellwire.protocols.node import Batch, QubitKind

QUBIT = QubitName("c0")
INITIALISE, MEASURE = Initialise(qubit=QUBIT), Measure(qubit=QUBIT)
ARM = Arm(window_id=WindowId("w"), link_id=LinkId("l"), qubit=QUBIT, timeout_ns=1)


async def connected(sink: RecordingSink) -> MockBackend:
    backend = MockBackend({"c0": "communication"})
    await backend.connect(sink)
    assert await sink.next() == ("connected", ((QUBIT, QubitKind.COMMUNICATION),))
    return backend


async def test_mock_without_script_does_everything(sink: RecordingSink) -> None:
    backend = await connected(sink)
    backend.submit(Batch(number=7, instructions=(INITIALISE, MEASURE, ARM)))
    ended = WindowEnded(window_id=WindowId("w"), attempts=0)
    assert await sink.next() == ("completed", 7, (Done(), Measured(bit=0), ended))
    assert [batch.number for batch in backend.batches] == [7]


async def test_mock_with_script_answers_in_its_order(sink: RecordingSink) -> None:
    backend = await connected(sink)
    backend.script(Measure, Measured(bit=1), Failed(text="the laser is out"))
    backend.submit(Batch(number=1, instructions=(MEASURE, MEASURE, INITIALISE)))
    _, _, completions = await sink.next()
    assert completions[:2] == (Measured(bit=1), Failed(text="the laser is out"))
    assert isinstance(completions[2], Failed)


async def test_mock_on_hold_answers_when_released(sink: RecordingSink) -> None:
    backend = await connected(sink)
    backend.hold()
    for number in (1, 2, 3):
        backend.submit(Batch(number=number, instructions=(INITIALISE,)))
    await backend.submitted(3)
    assert sink.events.empty()
    backend.release(1)
    assert (await sink.next())[:2] == ("completed", 1)
    assert sink.events.empty()
    backend.release()
    assert (await sink.next())[:2] == ("completed", 2)
    assert (await sink.next())[:2] == ("completed", 3)


async def test_mock_lost_forgets_batches_and_comes_back(sink: RecordingSink) -> None:
    backend = await connected(sink)
    backend.hold()
    backend.submit(Batch(number=1, instructions=(INITIALISE,)))
    backend.lose("unplugged")
    assert await sink.next() == ("lost", "unplugged")
    backend.release()
    backend.come_up()
    assert (await sink.next())[0] == "connected"
    backend.submit(Batch(number=2, instructions=(INITIALISE,)))
    assert (await sink.next())[:2] == ("completed", 2)
    assert backend.connects == 2


async def test_mock_claims_what_its_clock_is_told_to(sink: RecordingSink) -> None:
    claim = ClockClaim(state=ClockState.LOCKED, local_ns=5, offset_ns=-3, uncertainty_ps=10)
    backend = MockBackend()
    with pytest.raises(BackendError, match="connect comes first"):
        backend.claim(claim)
    await backend.connect(sink)
    assert (await sink.next())[0] == "connected"
    backend.claim(claim)
    assert await sink.next() == ("claimed", claim)


async def test_mock_told_to_fail_refuses_to_connect(sink: RecordingSink) -> None:
    backend = MockBackend()
    backend.connect_error = BackendError("no device file")
    with pytest.raises(BackendError, match="no device file"):
        await backend.connect(sink)


async def test_mock_closed_is_silent(sink: RecordingSink) -> None:
    backend = await connected(sink)
    backend.submit(Batch(number=1, instructions=(INITIALISE,)))
    await backend.close()
    assert backend.closed
    assert sink.events.empty()
    with pytest.raises(BackendError):
        backend.come_up()


def test_create_backend_with_qubits_takes_them(context: BackendContext) -> None:
    context = dataclasses.replace(context, options={"qubits": {"a": "storage"}})
    backend = create_backend(context)
    assert isinstance(backend, MockBackend)
    assert backend.qubits == ((QubitName("a"), QubitKind.STORAGE),)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"qbits": {}}, "unknown option 'qbits'"),
        ({"qubits": {"a": "flux"}}, "expected a table"),
        ({"qubits": 3}, "table"),
    ],
)
def test_create_backend_with_wrong_options_says_so(
    context: BackendContext, options: dict[str, object], text: str
) -> None:
    with pytest.raises(ConfigError, match=text):
        create_backend(dataclasses.replace(context, options=options))


async def playing(sink: RecordingSink) -> MockBackend:
    backend = MockBackend({"c0": "communication"}, windows={"l": "psi+", "dark": "none"})
    await backend.connect(sink)
    await sink.next()
    return backend


@pytest.mark.parametrize(
    ("changes", "attempts", "herald"),
    [
        ({}, 6, None),
        ({"qubit": None}, 6, "psi+"),
        ({"qubit": None, "link_id": LinkId("dark")}, 6, None),
        ({"qubit": None, "start_in_ns": 10**9}, 0, None),
    ],
)
async def test_mock_that_plays_a_link_ends_its_windows_with_their_last_attempt(
    sink: RecordingSink, changes: dict[str, object], attempts: int, herald: str | None
) -> None:
    backend = await playing(sink)
    arm = msgspec.structs.replace(ARM, attempts=6, timeout_ns=10**6, **changes)
    backend.submit(Batch(number=1, instructions=(arm,)))
    state = BellState(herald) if herald is not None else None
    assert await sink.next() == (
        "completed",
        1,
        (WindowEnded(window_id=arm.window_id, attempts=attempts, bell_state=state),),
    )


async def test_mock_that_plays_a_link_ends_a_cancelled_window_before_it_begins(sink: RecordingSink) -> None:
    backend = await playing(sink)
    backend.submit(Batch(number=1, instructions=(msgspec.structs.replace(ARM, start_in_ns=10**15, timeout_ns=10**16),)))
    backend.submit(Batch(number=2, instructions=(Cancel(window_id=ARM.window_id),)))
    assert await sink.next() == ("completed", 1, (WindowEnded(window_id=ARM.window_id, attempts=0),))
    assert await sink.next() == ("completed", 2, (Done(),))


async def test_mock_that_is_lost_or_closed_forgets_its_windows(sink: RecordingSink) -> None:
    backend = await playing(sink)
    arm = msgspec.structs.replace(ARM, start_in_ns=10**15, timeout_ns=10**16)
    backend.submit(Batch(number=1, instructions=(arm,)))
    backend.submit(Batch(number=2, instructions=(INITIALISE,)))
    assert (await sink.next())[:2] == ("completed", 2)
    backend.lose("unplugged")
    assert await sink.next() == ("lost", "unplugged")
    backend.come_up()
    await sink.next()
    backend.submit(Batch(number=3, instructions=(Cancel(window_id=arm.window_id),)))
    assert await sink.next() == ("completed", 3, (Done(),))
