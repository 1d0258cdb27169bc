"""One seed of one scenario: the network, what is asked of it, what goes wrong, and what the checkers say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Final, TypeVar

import msgspec

from bellwire.protocols.errors import BellwireError
from bellwire.protocols.events import Event
from bellwire.protocols.ids import BROKER, NodeId
from bellwire.protocols.instructions import Failed, Measured, WindowEnded
from bellwire.protocols.machine import Machine
from bellwire.protocols.node import Batch
from bellwire.sim.preset import load_preset
from bellwire.sim.virtual import SECOND_NS, VirtualTestbed
from bellwire.sim.world import BatchCompleted
from bellwire.simnet.faults import (
    AnyFault,
    Crash,
    Cut,
    FrameFault,
    Miscount,
    Plan,
    Skew,
    Slow,
    Stall,
    WorldCrash,
    draw_plan,
)
from bellwire.simnet.injector import Injector
from bellwire.simnet.trace import Trace
from bellwire.virtual.application import PATIENCE_NS, Application
from bellwire.virtual.checker import Checker
from bellwire.virtual.endings import NoLeak, Progress, Termination
from bellwire.virtual.gate_checkers import ExactCorrection
from bellwire.virtual.measures import Bounds, Times
from bellwire.virtual.oracle import Oracle
from bellwire.virtual.pair_checkers import FreshId, GhostPair, OneFrame, SingleUse
from bellwire.virtual.scenario import Network, Scenario, build_network
from bellwire.virtual.service_checkers import Service
from bellwire.virtual.workload import Judges, Workload

C = TypeVar("C", bound=Checker)

START_NS: Final = 1_000_000 * SECOND_NS
"""When virtual time begins: late enough that no clock shows a time before zero."""

WARM_UP_NS: Final = SECOND_NS
"""What nodes have to find each other before anything is asked or goes wrong."""

QUIET_NS: Final = 12 * SECOND_NS
"""How long leases, sessions and repeats may take to run out at the end, without faults."""

SAMPLES_PER_RUN: Final = 40

MAX_VIOLATIONS: Final = 20
"""After so many violations a run is over."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one seed."""

    seed: int
    violations: list[dict[str, str | int]]
    outcomes: dict[str, int]
    faults: dict[str, int]
    rows: dict[str, int]
    events: int
    frames: int
    gates_checked: int
    pairs_made: int
    fired: dict[int, int]
    """How often each fault of the plan fired, by its number."""

    @property
    def checkers(self) -> set[str]:
        """The invariants that were broken."""
        return {str(violation["checker"]) for violation in self.violations}


class _Tracer:
    """Writes batches, completions and journals into a trace."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self.bed: VirtualTestbed

    def attached(self, bed: VirtualTestbed) -> None:
        self.bed = bed

    def submitted(self, name: NodeId, batch: Batch) -> None:
        content = msgspec.to_builtins(batch.instructions)
        told = [{key: value for key, value in each.items() if not isinstance(value, float)} for each in content]
        cause = self.bed.brain(name).endpoint.cause_id
        self._trace.event(self.bed.net.now_ns, "batch", name, cause, number=batch.number, instructions=told)

    def completed(self, name: NodeId, batch: BatchCompleted) -> None:
        told = [_word(completion) for completion in batch.completions]
        cause = f"{name}:batch-{batch.batch_id}"
        self._trace.event(self.bed.net.now_ns, "completion", name, cause, number=batch.batch_id, completions=told)

    def noted(self, name: NodeId, event: Event) -> None:
        self._trace.event(
            self.bed.net.now_ns,
            "journal",
            name,
            event.cause_id,
            event=event.name,
            subjects=event.subjects,
            detail=event.detail,
        )

    def released(self, name: NodeId) -> None:
        self._trace.event(self.bed.net.now_ns, "qubits-freed", name)


def _word(completion: object) -> str:
    if isinstance(completion, Measured):
        return f"measured {completion.bit}"
    if isinstance(completion, WindowEnded):
        return f"window ended after {completion.attempts}, {completion.bell_state or 'nothing seen'}"
    return f"failed: {completion.text}" if isinstance(completion, Failed) else "done"


class _Operator:
    """Does to the participants what a fault does."""

    def __init__(self, bed: VirtualTestbed, applications: dict[NodeId, Application]) -> None:
        self._bed = bed
        self._applications = applications
        self._down: set[NodeId] = set()

    def crash(self, name: NodeId) -> None:
        if name in self._down:
            return
        self._down.add(name)
        if name in self._applications:
            self._applications[name].crash()
        else:
            self._bed.crash(name)

    def quit(self, name: NodeId) -> None:
        if name in self._down:
            return
        if name in self._applications:
            self._applications[name].leave()
        else:
            self._bed.say_goodbye(name)
        self._bed.net.flush(name)
        self.crash(name)

    def restart(self, name: NodeId, *, set_back: bool = False) -> None:
        if name not in self._down:
            return
        self._down.discard(name)
        if set_back:
            self._bed.set_back(name)
        if name in self._applications:
            self._applications[name].join()
        elif name == BROKER:
            self._bed.restart_broker()
        elif name in self._bed.agents:
            self._bed.start_agent(name)
        else:
            self._bed.start_station(name)

    def lose_world(self) -> None:
        self._bed.lose_world()

    def notice_loss(self, name: NodeId) -> None:
        if name not in self._down and name not in self._bed.hardware.nodes:
            self._bed.notice_loss(name)

    def regain_world(self, name: NodeId) -> None:
        self._bed.world_up = True
        if name not in self._down and name not in self._bed.hardware.nodes:
            self._bed.reconnect(name, flush=False)
            self._bed.net.touch(name)

    def slow(self, name: NodeId, start_ns: int, end_ns: int, delay: Callable[[], int]) -> None:
        def slowness(node: NodeId, now_ns: int) -> int:
            return delay() if node == name and start_ns <= now_ns < end_ns else 0

        self._bed.hardware.slowness.append(slowness)

    def miscount(self, name: NodeId, start_ns: int, end_ns: int, wrong: Callable[[], bool]) -> None:
        def miscounts(node: NodeId, now_ns: int) -> bool:
            return node == name and start_ns <= now_ns < end_ns and wrong()

        self._bed.hardware.miscounts.append(miscounts)

    def backends(self) -> Sequence[NodeId]:
        return (*self._bed.stations, *self._bed.agents)


class Calm:
    """Tells whether any fault can excuse that an application waits for a node."""

    def __init__(self, plan: Plan, bed: VirtualTestbed) -> None:
        self._faults = [fault for fault in plan if self._disturbs(fault)]
        self._began_ns = bed.net.now_ns
        self._bed = bed

    @staticmethod
    def _disturbs(fault: AnyFault) -> bool:
        if isinstance(fault, FrameFault):
            return not fault.spared
        return not isinstance(fault, Skew)

    def __call__(self, application: NodeId, node: NodeId, since_ns: int) -> bool:
        """Whether none has touched the two since a time. A fault is felt for a while when it is over."""
        now_ns = self._bed.net.now_ns - self._began_ns
        since_ns -= self._began_ns
        for fault in self._faults:
            felt_ns = fault.end_ns + 5 * SECOND_NS
            if isinstance(fault, WorldCrash):
                felt_ns += 2 * fault.notice_ns
            if fault.start_ns > now_ns or felt_ns < since_ns:
                continue
            if isinstance(fault, Crash | Stall | Slow | Miscount) and fault.node not in (application, node):
                continue
            if isinstance(fault, Cut) and not {*fault.senders, *fault.receivers} >= {application, node}:
                continue
            return False
        return True


CHECKERS: Final[tuple[type[Checker], ...]] = (
    FreshId,
    GhostPair,
    SingleUse,
    OneFrame,
    ExactCorrection,
    Service,
    Termination,
    Progress,
    NoLeak,
    Bounds,
    Times,
)


class Run:
    """One seed of a scenario. `plan` replaces the faults that the seed draws."""

    def __init__(
        self,
        scenario: Scenario,
        seed: int,
        *,
        plan: Plan | None = None,
        trace: Trace | None = None,
    ) -> None:
        self.scenario, self.seed, self.trace = scenario, seed, trace
        self.network: Network = build_network(scenario, seed)
        self.plan = plan_of(scenario, seed) if plan is None else plan
        self.oracle = Oracle()
        tracer = [_Tracer(trace)] if trace is not None else []
        self.bed = self._testbed(tracer)
        self.checkers: dict[str, Checker] = {kind.name: kind(self.oracle) for kind in CHECKERS}
        self._checker(Progress).expected = scenario.workload.all_done
        self.outcomes: Counter[str] = Counter()
        self.bed.net.run_for(WARM_UP_NS)
        self.applications = {name: Application(self.bed, name, seed) for name in self.network.applications}
        self.injector = Injector(self.plan, self.bed.net, _Operator(self.bed, self.applications), seed)

    def _checker(self, kind: type[C]) -> C:
        checker = self.checkers[kind.name]
        assert isinstance(checker, kind)
        return checker

    def _testbed(self, tracers: list[_Tracer]) -> VirtualTestbed:
        return VirtualTestbed(
            preset=load_preset(self.scenario.topology.preset),
            nodes=self.network.nodes,
            links=self.network.links,
            stations=dict.fromkeys(self.network.stations, self.network.detectors),
            seed=self.seed,
            latency_ns=round(self.scenario.latency_us * 1_000),
            start_ns=START_NS,
            session=self.scenario.session.settings(),
            clocks=Injector.clocks(self.plan, START_NS),
            time=self.network.time,
            trace=self.trace,
            watchers=[*tracers, self.oracle],
        )

    def run(self) -> Report:
        """Let it happen."""
        rows: Counter[str] = Counter()

        def observe(machine: str, state: StrEnum, given: StrEnum) -> None:
            rows[f"{machine} {state.value} {given.value}"] += 1

        before, Machine.observe = Machine.observe, observe
        try:
            self._work()
        except (BellwireError, ArithmeticError, LookupError, AttributeError, TypeError, ValueError) as error:
            self.oracle.violate("no-crash", f"{type(error).__name__}: {error}")
        finally:
            Machine.observe = before
        return Report(
            seed=self.seed,
            violations=[msgspec.to_builtins(each) for each in self.oracle.violations[:MAX_VIOLATIONS]],
            outcomes=dict(sorted(self.outcomes.items())),
            faults=dict(sorted(self.injector.fired.items())),
            rows=dict(sorted(rows.items())),
            events=self.bed.net.events,
            frames=self.bed.net.frames,
            gates_checked=self._checker(ExactCorrection).checked,
            pairs_made=self._checker(SingleUse).made,
            fired=dict(sorted(self.injector.fired_by_number.items())),
        )

    def _work(self) -> None:
        duration_ns = self.scenario.duration_ns
        self._hire(self.bed.net.now_ns + duration_ns)
        timeout_ns = round(self.scenario.workload.timeout_s * SECOND_NS)
        self._pass(duration_ns)
        self._pass(timeout_ns + QUIET_NS // 2)
        self._checker(Termination).calm_down()
        self._pass(QUIET_NS // 2)
        for _ in range(round(PATIENCE_NS / SECOND_NS)):
            if not any(application.working for application in self.applications.values()):
                break
            self._pass(2 * SECOND_NS)
        for application in self.applications.values():
            application.leave()
        self._pass(QUIET_NS)
        if len(self.oracle.violations) < MAX_VIOLATIONS:
            for checker in self.checkers.values():
                checker.finish()

    def _hire(self, until_ns: int) -> None:
        judges = Judges(
            frames=self._checker(OneFrame),
            service=self._checker(Service),
            gates=self._checker(ExactCorrection),
            termination=self._checker(Termination),
            progress=self._checker(Progress),
            calm=Calm(self.plan, self.bed),
        )
        table = self.scenario.workload
        for application in self.applications.values():
            Workload(application, self.network.links, table, judges, self.outcomes, until_ns).start()

    def _pass(self, duration_ns: int) -> None:
        """Let time pass, and look around now and then."""
        end_ns = self.bed.net.now_ns + duration_ns
        step_ns = max(SECOND_NS // 2, self.scenario.duration_ns // SAMPLES_PER_RUN)
        while self.bed.net.now_ns < end_ns and len(self.oracle.violations) < MAX_VIOLATIONS:
            self.bed.net.run_for(min(step_ns, end_ns - self.bed.net.now_ns))
            for checker in self.checkers.values():
                checker.sample()


def plan_of(scenario: Scenario, seed: int) -> Plan:
    """The faults that a seed draws for a scenario."""
    participants = build_network(scenario, seed).participants
    return draw_plan(scenario.faults, participants, scenario.duration_ns, seed)


def run_seed(scenario: Scenario, seed: int, *, plan: Plan | None = None, trace: Trace | None = None) -> Report:
    """Run one seed of a scenario, with the faults that it draws or with those of `plan`."""
    return Run(scenario, seed, plan=plan, trace=trace).run()
