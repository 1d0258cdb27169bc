"""Members of the network that are hostile: with a key that is let in, and a wish to be or do more than it stands for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from loopback import ALICE, BOB, LINK, STATION, WAIT_S, Application
from slice_of_network import APPLICATION, Slice

from bellwire.agent.brain import AgentBrain
from bellwire.protocols.errors import ErrorCode, RequestError
from bellwire.protocols.ids import BROKER, CreateId, GateId, NetworkTimeNs, NodeId, PairId, WindowId
from bellwire.protocols.instructions import BellState
from bellwire.protocols.messages import (
    GateDone,
    GateKind,
    GateOpen,
    GateOutcome,
    GateReady,
    GateRequest,
    GateResult,
    GateVariant,
    HeraldClose,
    HeraldOpen,
    HeraldReady,
    HeraldReport,
    LinkAccept,
    LinkAdd,
    LinkCreate,
    LinkCreated,
    LinkErr,
    LinkOk,
    PairConfirm,
    PairConfirmed,
    PairRelease,
    ProgramResult,
    ProgramRun,
    Reply,
    Request,
    RequestType,
    Role,
    SessionAck,
    Step,
    TimeReport,
    TimeStatus,
)
from bellwire.protocols.messages.program import StepKind

MALLORY = NodeId("mallory")
SECOND_NS = 1_000_000_000
SOON = NetworkTimeNs(2**62)
WINDOW = WindowId("link-1-1")

REPORT = HeraldReport(link_id=LINK, window_id=WINDOW, attempt=1, bell_state=BellState.PSI_PLUS)
OPEN = HeraldOpen(
    link_id=LINK,
    window_id=WINDOW,
    create_id=CreateId("c"),
    scheme="any",
    start_ns=SOON,
    attempts=1,
    timeout_ns=SECOND_NS,
)
CLOSE = HeraldClose(link_id=LINK, window_id=WINDOW)
ADD = LinkAdd(
    link_id=LINK,
    create_id=CreateId("c"),
    number=1,
    min_fidelity=0.0,
    deadline_ns=SOON,
    purpose_id=0,
    priority=0,
    request_type=RequestType.KEEP,
    application=APPLICATION,
)
CONFIRM = PairConfirm(
    link_id=LINK,
    pair_id=PairId(f"{WINDOW}/1"),
    create_id=CreateId("c"),
    sequence_number=1,
    bell_state=BellState.PSI_PLUS,
    expires_ns=SOON,
)
RELEASE = PairRelease(link_id=LINK, pair_id=PairId(f"{WINDOW}/1"))
CREATE = LinkCreate(peer=BOB, max_time_ns=SECOND_NS)
GATE = GateRequest(
    kind=GateKind.CZ, variant=GateVariant.SYMMETRIC, qubit="c", peer=BOB, peer_qubit="t", max_time_ns=SECOND_NS
)
RUN = ProgramRun(steps=(Step(kind=StepKind.INITIALISE, qubits=("q",)),))

ANSWERS: dict[type[Request], type[Reply]] = {
    HeraldReport: SessionAck,
    HeraldOpen: HeraldReady,
    HeraldClose: SessionAck,
    LinkAdd: LinkAccept,
    PairConfirm: PairConfirmed,
    PairRelease: SessionAck,
    LinkCreate: LinkCreated,
    GateRequest: GateResult,
    GateOpen: GateReady,
    GateOutcome: GateDone,
    ProgramRun: ProgramResult,
}


def opening(application: NodeId, pair_id: PairId) -> GateOpen:
    return GateOpen(
        gate_id=GateId("stolen"),
        pair_id=pair_id,
        kind=GateKind.CZ,
        variant=GateVariant.SYMMETRIC,
        application=application,
        qubit="t",
        deadline_ns=SOON,
    )


@asynccontextmanager
async def member(
    net: Slice, role: Role, *, says: Role | None = None, name: NodeId = MALLORY
) -> AsyncIterator[Application]:
    """A hostile participant with a key of a role."""
    keys = net.keys.make(name, role)
    async with Application(keys, net.broker.endpoint, net.keys.public(BROKER), role=says) as mallory:
        yield mallory


async def refusal(member: Application, peer: NodeId, request: Request) -> RequestError:
    with pytest.raises(RequestError) as refused:
        await member.ask(peer, request, ANSWERS[type(request)])
    return refused.value


async def works(net: Slice) -> None:
    """The application makes a pair as if nothing had been."""
    await net.application.ask(ALICE, LinkCreate(peer=BOB, max_time_ns=10 * SECOND_NS), LinkCreated)
    assert {(await net.application.received(LinkOk))[0] for _ in range(2)} == {ALICE, BOB}


@pytest.mark.parametrize(
    ("role", "requests"),
    [
        (Role.APPLICATION, (REPORT, OPEN, CLOSE, ADD, CONFIRM, RELEASE, opening(APPLICATION, PairId("x")))),
        (Role.AGENT, (REPORT, OPEN, CLOSE, ADD, CONFIRM, RELEASE, CREATE, GATE, RUN)),
        (Role.STATION, (REPORT, OPEN, CLOSE, ADD, CONFIRM, RELEASE, CREATE, GATE, RUN)),
        (Role.OBSERVER, (REPORT, OPEN, CLOSE, ADD, CONFIRM, RELEASE, CREATE, GATE, RUN)),
    ],
)
async def test_member_asking_an_agent_what_is_not_its_own_is_denied(
    net: Slice, role: Role, requests: tuple[Request, ...]
) -> None:
    """Spec 1 §2.6, 2 §5: by the role, and for the right role by the name."""
    async with member(net, role) as mallory:
        for request in requests:
            assert (await refusal(mallory, BOB, request)).code is ErrorCode.DENIED, request
    assert not net.agent(BOB).links[LINK].book.requests
    assert net.agent(BOB).registers.left() == {}
    await works(net)


@pytest.mark.parametrize("role", [Role.APPLICATION, Role.AGENT, Role.STATION, Role.OBSERVER])
async def test_station_takes_windows_from_the_primary_of_the_link_alone(net: Slice, role: Role) -> None:
    async with member(net, role) as mallory:
        for request in (OPEN, CLOSE):
            assert (await refusal(mallory, STATION, request)).code is ErrorCode.DENIED


async def test_station_that_forges_heralds_for_another_link_is_denied_and_the_window_goes_on(net: Slice) -> None:
    """Only the link's own station is heard on it, window by window (2 §5)."""
    book = net.agent(ALICE).links[LINK].book
    async with member(net, Role.STATION, name=NodeId("other-station")) as forger:
        await forger.joined()
        await net.application.ask(ALICE, LinkCreate(peer=BOB, max_time_ns=10 * SECOND_NS), LinkCreated)
        for window in [*book.windows, WINDOW]:
            forged = HeraldReport(link_id=LINK, window_id=window, attempt=1, bell_state=BellState.PHI_PLUS)
            assert (await refusal(forger, ALICE, forged)).code is ErrorCode.DENIED
        assert {(await net.application.received(LinkOk))[0] for _ in range(2)} == {ALICE, BOB}


@pytest.mark.parametrize("says", [Role.STATION, Role.APPLICATION, Role.BROKER])
async def test_stolen_key_is_its_owners_role_to_the_broker_and_no_other(net: Slice, says: Role) -> None:
    """The broker has the role that stands with the key, so a greeting of another role is not relayed from either."""
    async with member(net, Role.AGENT, says=says) as mallory:
        mallory.driver.stimulate(lambda _: mallory.endpoint.release_session(BROKER))
        with pytest.raises(RequestError, match=f"says that its role is {says}, but it is agent"):
            await mallory.ask(BROKER, TimeStatus(), TimeReport)
        assert not net.broker.core.is_up(MALLORY)


async def test_stolen_key_of_a_station_is_no_application_to_the_agents_that_know_it(net: Slice) -> None:
    """It tells the broker the truth, and lies to an agent, which knows its station for one."""
    await net.nodes[STATION].close()
    async with member(net, Role.STATION, name=STATION) as thief:
        await thief.joined()
        thief.endpoint.role = Role.APPLICATION
        error = await refusal(thief, ALICE, CREATE)
        assert error.code is ErrorCode.PEER_LOST
        assert "says that its role is application, but it is station" in error.text


async def test_stolen_key_cannot_be_used_in_the_name_of_another(net: Slice) -> None:
    """What the thief sends bears the name of the key that it stole, whatever it writes into frames and messages."""
    heard: list[NodeId] = []
    brain = net.agent(ALICE)
    receive = brain.node.endpoint.receive

    def listening(peer: NodeId, data: bytes, now_ns: int) -> None:
        heard.append(peer)
        receive(peer, data, now_ns)

    brain.node.endpoint.receive = listening  # type: ignore[method-assign]
    async with member(net, Role.APPLICATION) as mallory:
        socket = mallory.connection._socket
        await mallory.ask(ALICE, TimeStatus(), TimeReport)
        heard.clear()
        for first in (b"bob", b"station", b"broker"):
            socket.send_multipart([first, b"\x80"])
            socket.send_multipart([b"alice", first, b"\x80"])
        await mallory.ask(ALICE, TimeStatus(), TimeReport)
    assert heard.count(MALLORY) >= 1
    assert set(heard) <= {MALLORY, BROKER, BOB, STATION, APPLICATION}
    assert not any(peer == BOB for peer in heard), "Bob himself has nothing to say here"


async def test_gate_that_a_neighbour_opens_for_an_application_that_did_not_ask_is_denied(net: Slice) -> None:
    """The target's qubit was allowed to gates of nobody; the neighbour is a real one with a real pair (3 §2.2)."""
    guarded = Step(kind=StepKind.INITIALISE, qubits=("t",), gates_with=())
    await net.application.ask(BOB, ProgramRun(steps=(guarded,)), ProgramResult)
    plain = Step(kind=StepKind.INITIALISE, qubits=("c",))
    await net.application.ask(ALICE, ProgramRun(steps=(plain,)), ProgramResult)
    result = await net.application.ask(ALICE, GATE, GateResult)
    assert result.code is ErrorCode.DENIED
    allowed = Step(kind=StepKind.INITIALISE, qubits=("t",), gates_with=(ALICE,))
    await net.application.ask(BOB, ProgramRun(steps=(allowed,)), ProgramResult)
    assert (await net.application.ask(ALICE, GATE, GateResult)).code is None


async def test_application_that_a_node_does_not_admit_is_denied_directly_and_by_way_of_a_neighbour(net: Slice) -> None:
    """Spec 1 §2.6."""
    bob: AgentBrain = net.agent(BOB)
    bob._applications = frozenset({NodeId("somebody-else")})
    for request in (RUN, LinkCreate(peer=ALICE, max_time_ns=SECOND_NS)):
        assert (await refusal(net.application, BOB, request)).code is ErrorCode.DENIED
    await net.application.ask(ALICE, LinkCreate(peer=BOB, max_time_ns=SECOND_NS), LinkCreated)
    async with asyncio.timeout(WAIT_S):
        peer, error = await net.application.received(LinkErr)
    assert (peer, error.code) == (ALICE, ErrorCode.DENIED)
    await net.application.ask(BOB, TimeStatus(), TimeReport)
