"""The application's bookkeeping of pairs: who may speak of a request, and what is forgotten (spec 2 §2)."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from msgspec import structs

from bellwire.client import steps
from bellwire.client.creates import MAX_EARLY_ERRORS, MAX_HALVES, Create
from bellwire.client.net import MAX_EARLY_CREATES, Network
from bellwire.protocols.codec import Codec, Undecodable
from bellwire.protocols.errors import ConfigError, ErrorCode, RequestError
from bellwire.protocols.ids import CreateId, NetworkTimeNs, NodeId, PairId, WindowId, link_id, pair_id
from bellwire.protocols.instructions import BellState
from bellwire.protocols.limits import INT64_MAX, MAX_ATTEMPTS_PER_WINDOW
from bellwire.protocols.messages import LinkErr, LinkExpire, LinkOk, SessionAck
from bellwire.shell.operand import check_fidelity, duration_ns, operand

ALICE, BOB, MALLORY = NodeId("alice"), NodeId("bob"), NodeId("mallory")
CREATE = CreateId("create-1")


class Deaf:
    """A participant that is connected to nothing."""

    class endpoint:  # noqa: N801
        node = NodeId("app")

        @staticmethod
        def handle(*_: object) -> None:
            """Take handlers and never call them."""


def network() -> Network:
    return Network(Deaf())  # type: ignore[arg-type]


def ok(peer: NodeId, pair: str = "pair/1", number: int = 1) -> LinkOk:
    return LinkOk(
        create_id=CREATE,
        pair_id=PairId(pair),
        sequence_number=number,
        purpose_id=0,
        peer=peer,
        originator=True,
        bell_state=BellState.PSI_PLUS,
        goodness=1.0,
        time_of_goodness_ns=NetworkTimeNs(1),
        confirmed_ns=NetworkTimeNs(2),
        expires_ns=NetworkTimeNs(3),
    )


def test_stranger_cannot_end_or_serve_a_request() -> None:
    net = network()
    net._creates[CREATE] = Create(nodes=(ALICE, BOB))
    with pytest.raises(RequestError) as refused:
        net._ok(MALLORY, ok(ALICE))
    assert refused.value.code is ErrorCode.DENIED
    with pytest.raises(RequestError) as refused:
        net._err(MALLORY, LinkErr(create_id=CREATE, code=ErrorCode.OTHER))
    assert refused.value.code is ErrorCode.DENIED
    assert net._creates[CREATE].arrived.empty()


def test_pair_arrives_when_both_ends_have_spoken() -> None:
    net = network()
    create = net._creates[CREATE] = Create(nodes=(ALICE, BOB))
    net._ok(BOB, ok(ALICE))
    assert create.arrived.empty()
    net._ok(ALICE, ok(BOB))
    pair = create.arrived.get_nowait()
    assert not isinstance(pair, RequestError)
    assert (pair.pair_id, pair.nodes, pair.confirmation_ns) == ("pair/1", (ALICE, BOB), 1)


def test_early_word_of_a_stranger_is_dropped_when_the_ends_are_known() -> None:
    net = network()
    net._creating = 1
    net._ok(MALLORY, ok(ALICE))
    net._ok(ALICE, ok(BOB))
    create = net._creates[CREATE]
    create.claim((ALICE, BOB))
    assert set(create.halves[PairId("pair/1")]) == {ALICE}


def test_early_error_counts_when_it_is_an_ends_and_is_dropped_when_it_is_a_strangers() -> None:
    net = network()
    net._creating = 1
    net._err(MALLORY, LinkErr(create_id=CREATE, code=ErrorCode.OTHER))
    net._err(BOB, LinkErr(create_id=CREATE, code=ErrorCode.UNSUPP))
    create = net._creates[CREATE]
    assert create.arrived.empty()
    create.claim((ALICE, BOB))
    error = create.arrived.get_nowait()
    assert isinstance(error, RequestError)
    assert error.code is ErrorCode.UNSUPP
    assert create.arrived.empty()


def test_early_pair_of_both_ends_arrives_when_the_ends_are_known_and_a_strangers_leaves_nothing() -> None:
    net = network()
    net._creating = 1
    net._ok(MALLORY, ok(ALICE, "pair/forged"))
    net._ok(BOB, ok(ALICE))
    net._ok(ALICE, ok(BOB))
    create = net._creates[CREATE]
    create.claim((ALICE, BOB))
    pair = create.arrived.get_nowait()
    assert not isinstance(pair, RequestError)
    assert pair.pair_id == "pair/1"
    assert create.halves == {}


def test_early_errors_are_bounded() -> None:
    net = network()
    net._creating = 1
    for number in range(MAX_EARLY_ERRORS):
        net._err(NodeId(f"node-{number}"), LinkErr(create_id=CREATE, code=ErrorCode.OTHER))
    with pytest.raises(RequestError) as refused:
        net._err(ALICE, LinkErr(create_id=CREATE, code=ErrorCode.OTHER))
    assert refused.value.code is ErrorCode.LIMIT


def test_early_requests_are_bounded_by_themselves_and_not_by_those_under_way() -> None:
    net = network()
    net._creates = {CreateId(f"under-way-{number}"): Create(nodes=(ALICE, BOB)) for number in range(200)}
    net._creating = 1
    for number in range(MAX_EARLY_CREATES + 1):
        net._ok(ALICE, structs.replace(ok(BOB), create_id=CreateId(f"early-{number}")))
    with pytest.raises(RequestError) as refused:
        net._ok(ALICE, structs.replace(ok(BOB), create_id=CreateId("one-more")))
    assert refused.value.code is ErrorCode.UNKNOWN_ID


def expire(low: int = 1, high: int = 2) -> LinkExpire:
    return LinkExpire(create_id=CREATE, sequence_low=low, sequence_high=high)


def test_expiry_takes_back_what_its_own_end_said_and_nothing_else() -> None:
    net = network()
    create = net._creates[CREATE] = Create(nodes=(ALICE, BOB))
    net._ok(ALICE, ok(BOB))
    with pytest.raises(RequestError) as refused:
        net._expire(MALLORY, expire())
    assert refused.value.code is ErrorCode.DENIED
    net._expire(BOB, expire())
    assert set(create.halves[PairId("pair/1")]) == {ALICE}
    net._expire(ALICE, expire())
    assert create.halves == {}
    net._ok(BOB, ok(ALICE))
    assert create.arrived.empty()


def test_expiry_of_a_request_that_has_ended_is_acknowledged_and_leaves_nothing() -> None:
    net = network()
    assert net._expire(ALICE, expire()) == SessionAck()
    assert net._creates == {}


def test_early_words_that_nobody_claims_are_forgotten() -> None:
    net = network()
    net._creating = 1
    net._ok(ALICE, ok(BOB))
    net._creating = 0
    net._forget_early()
    assert net._creates == {}
    with pytest.raises(RequestError) as refused:
        net._ok(ALICE, ok(BOB))
    assert refused.value.code is ErrorCode.UNKNOWN_ID


def test_halves_of_a_request_are_bounded_and_the_other_halves_still_come() -> None:
    net = network()
    create = net._creates[CREATE] = Create(nodes=(ALICE, BOB))
    for number in range(MAX_HALVES):
        net._ok(ALICE, ok(BOB, f"pair/{number}", number))
    with pytest.raises(RequestError) as refused:
        net._ok(ALICE, ok(BOB, "one/more"))
    assert refused.value.code is ErrorCode.LIMIT
    net._ok(BOB, ok(ALICE, "pair/7", 7))
    assert create.arrived.qsize() == 1
    net._expire(ALICE, expire(8, 9))
    net._ok(ALICE, ok(BOB, "one/more"))
    net._ok(ALICE, ok(BOB, "and/another"))
    net._err(ALICE, LinkErr(create_id=CREATE, code=ErrorCode.TIMEOUT))
    assert create.arrived.qsize() == 2


@pytest.mark.parametrize("text", ["alice", ":c", "alice:", "al ice:c", "béb:c", "alice:a b", "alice:" + "q" * 200])
def test_operand_that_is_none_is_one_clear_line(text: str) -> None:
    with pytest.raises(ConfigError) as wrong:
        operand(text)
    assert "\n" not in str(wrong.value)
    assert len(str(wrong.value)) < 250


NO_OPERANDS = ["", "a b", "a\n", "a:b", "\u00a0", "q" * 161]
OPERANDS = ["c", "q[0]", "ψ", "alice-bob-1f-3/17", "q" * 160]


def taken(take: Callable[[str], object], text: str) -> bool:
    try:
        take(text)
    except (ConfigError, Undecodable):
        return False
    return True


@pytest.mark.parametrize("text", [*NO_OPERANDS, *OPERANDS])
def test_name_of_a_qubit_has_one_rule_wherever_it_is_given(text: str) -> None:
    def received(operand: str) -> object:
        steps = [{"kind": "measure", "qubits": [operand]}]
        return Codec().decode(msgspec.msgpack.encode({"type": "program.run", "steps": steps}))

    def gate_of(operand: str) -> object:
        return steps.gate("cz", "a", operand)

    def named(operand_text: str) -> object:
        return operand(f"alice:{operand_text}")

    takers = (received, named, gate_of, steps.initialise, steps.measure, steps.release)
    assert [taken(take, text) for take in takers] == [text in OPERANDS] * len(takers)


@pytest.mark.parametrize("name", ["", "a b", "a:b", "x" * 65, "alice-bob"])
def test_link_is_named_so_that_the_ids_of_its_pairs_are_operands(name: str) -> None:
    if name != "alice-bob":
        with pytest.raises(ConfigError, match="link's name"):
            link_id(name)
        return
    longest = pair_id(WindowId(f"{link_id(name)}-{INT64_MAX:x}-{INT64_MAX}"), MAX_ATTEMPTS_PER_WINDOW)
    assert steps.release(longest).qubits == (longest,)


@pytest.mark.parametrize("fidelity", [-0.1, 1.1, float("nan"), float("inf")])
def test_fidelity_that_is_none_is_one_clear_line(fidelity: float) -> None:
    with pytest.raises(ConfigError, match="fidelity"):
        check_fidelity(fidelity)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("inf"), float("nan"), 1e10])
def test_timeout_that_is_none_is_one_clear_line(seconds: float) -> None:
    with pytest.raises(ConfigError, match="timeout"):
        duration_ns(seconds)
