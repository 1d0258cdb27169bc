"""Every checker has teeth: a small bug, put into the protocols on purpose, makes it fire."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest

from bellwire.protocols.asks import Asks
from bellwire.protocols.gate_end import GateEnd
from bellwire.protocols.herald import WindowEnd
from bellwire.protocols.ids import QubitName
from bellwire.protocols.instructions import AnyInstruction, BellState, Discard, Measure
from bellwire.protocols.link_pairs import LinkPairs
from bellwire.protocols.link_windows import LinkWindows
from bellwire.protocols.network_clock import NetworkClock
from bellwire.protocols.node import CompletionHandler, Node, QubitKind, Qubits
from bellwire.protocols.pairs import PairEnd, PairInput, PairState
from bellwire.protocols.queue import FairQueue, LinkRequest, RequestState
from bellwire.protocols.registers import Registers
from bellwire.protocols.session import Session
from bellwire.protocols.teleport import Half
from bellwire.protocols.time_hub import TimeHub
from bellwire.simnet.faults import Crash, Detour, FrameFault, FrameFaultKind, Plan, Skew
from bellwire.virtual.run import CHECKERS, run_seed
from bellwire.virtual.scenario import load_scenario

SECOND_NS = 1_000_000_000
Patch = pytest.MonkeyPatch

LOST_REPORTS: Plan = (
    FrameFault(
        number=1, kind=FrameFaultKind.LOSE, permille=1000, sender="s0", receiver="n0", duration_ns=12 * SECOND_NS
    ),
)
DEAD_APPLICATION: Plan = (Crash(number=1, node="app0", start_ns=5 * SECOND_NS, duration_ns=SECOND_NS),)
LIGHT_LOSS: Plan = (FrameFault(number=1, kind=FrameFaultKind.LOSE, permille=40, duration_ns=4 * SECOND_NS),)
DEAD_BROKER: Plan = (Crash(number=1, node="broker", start_ns=SECOND_NS, duration_ns=10 * SECOND_NS),)

ONE_WAY_DETOUR: Plan = (
    Skew(number=1, node="n0", offset_ns=50_000_000, drift_ppb=50_000),
    Detour(number=2, sender="broker", receiver="n0", delay_ns=2_000_000, duration_ns=12 * SECOND_NS),
)

LONG_DETOUR: Plan = (
    Skew(number=1, node="n0", offset_ns=50_000_000, drift_ppb=50_000),
    Detour(number=2, sender="broker", receiver="n0", delay_ns=100_000_000, duration_ns=12 * SECOND_NS),
)


def confirms_by_itself(patch: Patch) -> None:
    """The primary does not wait for the other end to confirm."""
    offer = LinkPairs._offer

    def offered(self: LinkPairs, pair: PairEnd) -> None:
        offer(self, pair)
        if pair.state is PairState.HERALDED:
            pair.step(PairInput.CONFIRM)

    patch.setattr(LinkPairs, "_offer", offered)


def acts_twice(patch: Patch) -> None:
    act = GateEnd.act

    def acts(self: GateEnd) -> None:
        act(self)
        act(self)

    patch.setattr(GateEnd, "act", acts)


def misreads_the_herald(patch: Patch) -> None:
    keep = WindowEnd.keep_report

    def kept(self: WindowEnd, report: Any) -> None:
        keep(self, report)
        states = list(BellState)
        self.bell_state = states[(states.index(report.bell_state) + 1) % 4]

    patch.setattr(WindowEnd, "keep_report", kept)


def forgets_corrections(patch: Patch) -> None:
    patch.setattr(Half, "correct", lambda _self, _bits: [])


def never_expires(patch: Patch) -> None:
    patch.setattr(LinkPairs, "_expire_at", lambda _self, _pair, _ns: None)


def keeps_what_the_dead_held(patch: Patch) -> None:
    patch.setattr(Registers, "release_all", lambda _self, _application: None)


def remembers_every_hello(patch: Patch) -> None:
    def hello_sent(self: Session, request_id: int, now_ns: int) -> None:
        self.greeted_ns = now_ns
        self.hellos[request_id] = now_ns

    patch.setattr(Session, "hello_sent", hello_sent)


def takes_a_qubit_twice(patch: Patch) -> None:
    take = Qubits.take

    def taken(self: Qubits, kind: QubitKind) -> QubitName | None:
        qubit = take(self, kind)
        if qubit is None and kind is QubitKind.COMMUNICATION:
            return min(self.held & {QubitName("communication0")}, default=None)
        return qubit

    patch.setattr(Qubits, "take", taken)


def claims_a_better_clock(patch: Patch) -> None:
    uncertainty_ns = NetworkClock.uncertainty_ns

    def shrunk(self: NetworkClock, local_ns: int) -> int | None:
        claimed_ns = uncertainty_ns(self, local_ns)
        return None if claimed_ns is None else claimed_ns // 2

    patch.setattr(NetworkClock, "uncertainty_ns", shrunk)


def keeps_every_side_path(patch: Patch) -> None:
    patch.setattr(TimeHub, "_forget_path", lambda _self, _lease: None)


def arms_however_unsure(patch: Patch) -> None:
    patch.setattr(Node, "check_time", lambda _self, _guard_ns: None)


def numbers_every_window_one(patch: Patch) -> None:
    lead = LinkWindows._lead

    def led(self: LinkWindows, request: Any, qubit: QubitName) -> None:
        self._opened = 0
        lead(self, request, qubit)

    patch.setattr(LinkWindows, "_lead", led)


def never_repeats(patch: Patch) -> None:
    arm = Asks._arm

    def armed(self: Asks, number: int, ask: Any) -> None:
        ask.interval_ns = ask.deadline_ns
        arm(self, number, ask)

    patch.setattr(Asks, "_arm", armed)


def hands_over_at_once(patch: Patch) -> None:
    """An atomic request is served like any other."""
    pair = LinkRequest.pair

    def paired(self: LinkRequest, given: PairEnd) -> list[PairEnd]:
        ready = pair(self, given)
        if not ready:
            ready, self.kept = self.kept, []
        return ready

    patch.setattr(LinkRequest, "pair", paired)


def serves_in_order_of_arrival(patch: Patch) -> None:
    """Neither priorities nor exclusive requests are heeded."""

    def first(_: FairQueue, requests: Iterable[LinkRequest]) -> LinkRequest | None:
        wanting = [each for each in requests if each.state is RequestState.QUEUED and each.missing > 0]
        return wanting[0] if wanting else None

    patch.setattr(FairQueue, "next", first)


def keeps_what_it_measured(patch: Patch) -> None:
    """The batch that measures for a request of type M does not discard."""
    execute = Node.execute

    def executed(self: Node, instructions: Sequence[AnyInstruction], handler: CompletionHandler) -> None:
        if len(instructions) > 1 and isinstance(instructions[-2], Measure) and isinstance(instructions[-1], Discard):
            instructions = instructions[:-1]
        execute(self, instructions, handler)

    patch.setattr(Node, "execute", executed)


BUGS: list[tuple[str, Callable[[Patch], None], Plan]] = [
    ("fresh-id", numbers_every_window_one, ()),
    ("ghost-pair", confirms_by_itself, LOST_REPORTS),
    ("single-use", acts_twice, ()),
    ("one-frame", misreads_the_herald, ()),
    ("exact-correction", forgets_corrections, ()),
    ("service", hands_over_at_once, ()),
    ("service", serves_in_order_of_arrival, ()),
    ("service", keeps_what_it_measured, ()),
    ("termination", never_expires, ()),
    ("progress", never_repeats, LIGHT_LOSS),
    ("no-leak", keeps_what_the_dead_held, DEAD_APPLICATION),
    ("bounds", remembers_every_hello, DEAD_BROKER),
    ("bounds", keeps_every_side_path, ()),
    ("time", takes_a_qubit_twice, ()),
    ("time", arms_however_unsure, LONG_DETOUR),
    ("time", claims_a_better_clock, ONE_WAY_DETOUR),
]


@pytest.mark.parametrize(("checker", "bug", "plan"), BUGS, ids=[f"{name}-{bug.__name__}" for name, bug, _ in BUGS])
def test_checker_fires_on_a_bug_of_its_kind(
    checker: str, bug: Callable[[Patch], None], plan: Plan, monkeypatch: Patch
) -> None:
    scenario = load_scenario("light-faults" if checker == "progress" else "two-nodes-mixed")
    for seed in range(3):
        assert run_seed(scenario, seed, plan=plan).violations == []
    bug(monkeypatch)
    assert any(checker in run_seed(scenario, seed, plan=plan).checkers for seed in range(40))


def test_every_checker_has_a_bug_that_it_catches() -> None:
    assert {name for name, _, _ in BUGS} == {kind.name for kind in CHECKERS}
