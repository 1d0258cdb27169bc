"""Virtual time on one core: teleported CZ, events and frames per second, and how the cost of a gate grows with the network.

Each measurement has a fresh process, whose own time on the processor counts: what else the machine does hardly matters.
"""

from __future__ import annotations

import heapq
import multiprocessing
import resource
import time
from collections.abc import Callable
from random import Random

import msgspec

from bellwire.protocols.errors import RequestError
from bellwire.protocols.ids import LinkId, NodeId
from bellwire.protocols.messages import GateKind, GateRequest, GateResult, GateStatus, GateVariant, ProgramRun, Step
from bellwire.protocols.messages.program import StepKind
from bellwire.sim.preset import load_preset
from bellwire.sim.virtual import SECOND_NS, VirtualLink, VirtualNode, VirtualTestbed
from bellwire.virtual.run import run_seed
from bellwire.virtual.scenario import TopologyKind, TopologyTable, edges_of, load_scenario

UNDER_WAY = 8
"""Gates that the application keeps under way between two nodes: as many as in the benchmark of daemons."""

LINKS_PER_STATION = 4
SIZES = (2, 10, 100, 1_000)
LIMIT_NS = 10_000 * SECOND_NS

Places = list[tuple[NodeId, NodeId, str]]
"""Where a worker teleports, in turn: a source, a target, and the name of the qubit at either."""


class Saturation:
    """An application that keeps one gate under way for each of its workers."""

    def __init__(self, bed: VirtualTestbed, workers: list[Places], variant: GateVariant) -> None:
        self.done = 0
        self._bed = bed
        self._workers = workers
        self._turns = [0] * len(workers)
        self._variant = variant
        self._application = bed.application()
        for source, target, name in (place for places in workers for place in places):
            for node in (source, target):
                steps = (Step(kind=StepKind.INITIALISE, qubits=(name,)),)
                self._application.call(node, ProgramRun(steps=steps))

    def start(self) -> None:
        """Let every worker ask for its first gate."""
        endpoint = self._application.endpoint
        endpoint.begin(self._bed.net.local_ns(endpoint.node))
        for worker in range(len(self._workers)):
            self._ask(worker)
        self._bed.net.flush(endpoint.node)

    def run(self, gates: int) -> None:
        """Let time pass until so many more gates are done."""
        wanted = self.done + gates
        self._bed.net.run_until(lambda: self.done >= wanted, limit_ns=LIMIT_NS)

    def _ask(self, worker: int) -> None:
        endpoint, places = self._application.endpoint, self._workers[worker]
        source, target, name = places[self._turns[worker] % len(places)]
        self._turns[worker] += 1
        request = GateRequest(
            kind=GateKind.CZ,
            variant=self._variant,
            qubit=name,
            peer=target,
            peer_qubit=name,
            max_time_ns=10 * SECOND_NS,
        )
        endpoint.ask(source, request, endpoint.now_ns + 20 * SECOND_NS, lambda answer: self._answered(worker, answer))

    def _answered(self, worker: int, answer: object) -> None:
        if isinstance(answer, RequestError):
            raise answer
        assert isinstance(answer, GateResult)
        assert answer.status is GateStatus.DONE, answer.text
        self.done += 1
        self._ask(worker)


def _testbed(size: int) -> tuple[VirtualTestbed, list[tuple[NodeId, NodeId]]]:
    """A grid of nodes, and its edges both ways."""
    names = [NodeId(f"n{number}") for number in range(size)]
    edges = edges_of(TopologyTable(kind=TopologyKind.GRID, size=size), Random(0))
    links = [
        VirtualLink(
            link_id=LinkId(f"l{number}"),
            ends=(names[first], names[second]),
            station=NodeId(f"s{number // LINKS_PER_STATION}"),
        )
        for number, (first, second) in enumerate(edges)
    ]
    nodes = dict.fromkeys(names, VirtualNode(communication=UNDER_WAY, storage=2 * UNDER_WAY))
    bed = VirtualTestbed(preset=load_preset("ideal"), nodes=nodes, links=links, seed=1)
    bed.net.run_for(SECOND_NS)
    return bed, [ends for link in links for ends in (link.ends, link.ends[::-1])]


def _saturate(load: Saturation, bed: VirtualTestbed, gates: int) -> dict[str, float]:
    """Gates, events and frames per second of this process, warmed up."""
    load.start()
    load.run(max(1, gates // 10))
    events, frames = bed.net.events, bed.net.frames
    began = time.thread_time()
    load.run(gates)
    elapsed = time.thread_time() - began
    events, frames = bed.net.events - events, bed.net.frames - frames
    return {
        "cz_per_s": gates / elapsed,
        "events_per_s": events / elapsed,
        "frames_per_s": frames / elapsed,
        "events_per_cz": events / gates,
        "frames_per_cz": frames / gates,
    }


def two_nodes(variant: str, gates: int) -> dict[str, float]:
    """Two nodes and a bare application with several gates under way."""
    bed, ((first, second), _) = _testbed(2)
    workers: list[Places] = [[(first, second, f"q{number}")] for number in range(UNDER_WAY)]
    figures = _saturate(Saturation(bed, workers, GateVariant(variant)), bed, gates)
    per_gate = {f"virtual_{variant}_{key}": value for key, value in figures.items() if key.endswith("_per_cz")}
    return {
        f"virtual_cz_{variant}_per_s": figures["cz_per_s"],
        f"virtual_{variant}_events_per_s": figures["events_per_s"],
        f"virtual_{variant}_frames_per_s": figures["frames_per_s"],
        **per_gate,
    }


def checked(duration_s: float) -> dict[str, float]:
    """The scenario of `bellwire simnet no-faults`: all invariants watched, every gate compared with the world's true state."""
    scenario = msgspec.structs.replace(load_scenario("no-faults"), duration_s=duration_s)
    run_seed(msgspec.structs.replace(scenario, duration_s=0.1), 0)
    began = time.thread_time()
    report = run_seed(scenario, 1)
    elapsed = time.thread_time() - began
    if report.violations:
        raise SystemExit(f"virtual time broke an invariant: {report.violations[0]}")
    return {
        "virtual_checked_gates_per_s": report.gates_checked / elapsed,
        "virtual_checked_events_per_s": report.events / elapsed,
    }


def growth(size: int, gates: int) -> dict[str, float]:
    """A grid in which every node is the source of one gate at a time, to its neighbours in turn; and its memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.thread_time()
    bed, edges = _testbed(size)
    workers: dict[NodeId, Places] = {}
    for number, (source, target) in enumerate(edges):
        workers.setdefault(source, []).append((source, target, f"q{number}"))
    load = Saturation(bed, list(workers.values()), GateVariant.SYMMETRIC)
    set_up_s = time.thread_time() - began
    figures = _saturate(load, bed, gates)
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {
        f"virtual_grid_{size}_us_per_cz": 1e6 / figures["cz_per_s"],
        f"virtual_grid_{size}_us_per_event": 1e6 / figures["events_per_s"],
        f"virtual_grid_{size}_events_per_cz": figures["events_per_cz"],
        f"virtual_grid_{size}_set_up_ms_per_node": set_up_s * 1e3 / size,
        f"virtual_grid_{size}_peak_kib": grown_kib,
    }


def yardstick(events: int) -> dict[str, float]:
    """A bare event loop: a heap of callables, each of which puts one off. What any simulator in Python pays for an event."""
    heap: list[tuple[int, int, Callable[[], None]]] = []
    count = 0

    def happen() -> None:
        nonlocal count
        count += 1
        heapq.heappush(heap, (now_ns + 1 + count * 7919 % 100, count, happen))

    now_ns = 0
    for _ in range(64):
        happen()
    began = time.thread_time()
    for _ in range(events):
        now_ns, _, call = heapq.heappop(heap)
        call()
    return {"heapq_events_per_s": events / (time.thread_time() - began)}


def _alone(figures: Callable[..., dict[str, float]], *arguments: object) -> dict[str, float]:
    """Measure in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(figures, arguments)


def measure(scale: float) -> dict[str, float]:
    """All figures of this module; rates are per second of one core."""
    gates = max(80, int(8_000 * scale))
    results = _alone(yardstick, gates * 50)
    for variant in ("symmetric", "sequential"):
        results |= _alone(two_nodes, variant, gates)
    results |= _alone(checked, max(0.1, 10 * scale))
    for size in SIZES:
        results |= _alone(growth, size, max(gates // 2, int(10 * size * scale)))
    smallest, *_, largest = SIZES
    for size in SIZES[1:]:
        ratio = results[f"virtual_grid_{size}_us_per_event"] / results[f"virtual_grid_{smallest}_us_per_event"]
        results[f"virtual_grid_{size}_event_to_{smallest}_node_event"] = ratio
    results[f"virtual_grid_{largest}_peak_kib_per_node"] = results[f"virtual_grid_{largest}_peak_kib"] / largest
    for kind in ("symmetric", "sequential", "checked"):
        ratio = results["heapq_events_per_s"] / results[f"virtual_{kind}_events_per_s"]
        results[f"virtual_{kind}_event_to_heapq_event"] = ratio
    return results
