"""The simulated world: every qubit and photon of a testbed, behind the instructions that a node's hardware could take.

It is sans-I/O. `now_ns` is the clock of the caller, who feeds batches, wakes it at its deadline and drains what was
completed. World time, in which qubits decohere and attempts are made, is start + (now - start) · `time_scale`. All
times that a node gives (`start_in_ns`, `timeout_ns`) and all deadlines are on the caller's clock.

A node can name its own qubits and nothing else, so that no protocol can cheat by touching both ends. Whatever a node
asks, the answer is a completion; only mistakes of the caller raise.

Decoherence is lazy: a qubit that is touched first lives through the world time since it was last touched.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Final
from zlib import crc32

import msgspec
import numpy as np

from bellwire.protocols.detectors import Detectors, StationSettings
from bellwire.protocols.errors import BackendError, ConfigError
from bellwire.protocols.ids import LinkId, NodeId, QubitName, WindowId
from bellwire.protocols.instructions import (
    AnyCompletion,
    AnyInstruction,
    Apply,
    Arm,
    Cancel,
    Discard,
    Done,
    Failed,
    Gate,
    Initialise,
    Measure,
    Measured,
    WindowEnded,
)
from bellwire.protocols.limits import MAX_ATTEMPTS_PER_WINDOW, MAX_BATCH_INSTRUCTIONS, MAX_ID_CHARS, MAX_TEXT_CHARS
from bellwire.protocols.node import QubitKind
from bellwire.sim.clocks import ClockInfo
from bellwire.sim.engine import DensityMatrixEngine, StateEngineCapable
from bellwire.sim.physics import LinkPhysics, NodePhysics, QubitPhysics, gate_fidelity, noisy_gate
from bellwire.sim.preset import Preset
from bellwire.sim.states import GROUND, MIXED, ComplexArray
from bellwire.sim.topology import LinkInfo, QubitInfo, WorldLink, WorldNode, check_topology
from bellwire.sim.windows import Party, WindowLink, WindowOutcome, WindowTable

_DONE: Final = Done()
_BITS: Final = (Measured(bit=0), Measured(bit=1))


class BatchCompleted(msgspec.Struct, frozen=True, kw_only=True):
    """A batch of a node is answered: one completion for each of its instructions, in order."""

    node: NodeId
    batch_id: int
    completions: tuple[AnyCompletion, ...]


class _Qubit:
    """One qubit. `touched_ns` is world time; `window` names the window that the qubit is armed for."""

    __slots__ = ("held", "key", "kind", "name", "physics", "touched_ns", "window")

    def __init__(self, node: NodeId, name: QubitName, kind: QubitKind, physics: QubitPhysics) -> None:
        self.key: Hashable = (node, name)
        self.name = name
        self.kind = kind
        self.physics = physics
        self.held = False
        self.touched_ns = 0
        self.window: WindowId | None = None


class _Node:
    """What a participant of the world has: qubits, links, detectors. A station may have links alone."""

    __slots__ = ("clock", "detectors", "links", "node", "physics", "qubits", "storage")

    def __init__(self, node: NodeId, physics: NodePhysics | None) -> None:
        self.node = node
        self.clock: ClockInfo | None = None
        self.physics = physics
        self.qubits: dict[QubitName, _Qubit] = {}
        self.storage: list[_Qubit] = []
        self.links: dict[LinkId, WindowLink] = {}
        self.detectors = Detectors(StationSettings())


class World:
    """All qubits, links and windows of a testbed.

    Args:
        preset: the physics.
        nodes, links: the testbed; a station that is no node is made of its links.
        seed: of every chance in this world.
        stations: the detectors of stations that serve their links in turn; the others have some for every link.
        start_ns: when it begins, on the caller's clock; also world time then.
        time_scale: world nanoseconds per nanosecond of the caller's clock. Exact for 1; otherwise world time is
            rounded to a nanosecond.
        engine: what keeps the states; a new `DensityMatrixEngine` by default. It must be empty.

    Raises:
        ConfigError: when testbed and preset do not fit, or the time scale is not a positive number.
    """

    def __init__(
        self,
        *,
        preset: Preset,
        nodes: Sequence[WorldNode],
        links: Sequence[WorldLink],
        seed: int,
        start_ns: int,
        stations: Mapping[NodeId, StationSettings] | None = None,
        time_scale: float = 1.0,
        engine: StateEngineCapable | None = None,
    ) -> None:
        check_topology(preset, nodes, links)
        if not (time_scale > 0 and math.isfinite(time_scale)):
            raise ConfigError(f"time scale is {time_scale}, expected a positive number")
        self._start_ns = start_ns
        self._now_ns = start_ns
        self._time_scale = time_scale
        self._rng = np.random.default_rng(seed)
        self._engine: StateEngineCapable = engine if engine is not None else DensityMatrixEngine()
        self._windows = WindowTable(time_scale=time_scale, rng=self._rng)
        self._completed: list[BatchCompleted] = []
        self._nodes: dict[NodeId, _Node] = {}
        self._add_nodes(preset, nodes, seed)
        self._add_links(preset, links)
        for station, settings in (stations or {}).items():
            if station not in self._nodes:
                raise ConfigError(f"station {station!r} has no link in this world")
            self._nodes[station].detectors = Detectors(settings)
        self._handlers: dict[type, Callable[[_Node, Any], AnyCompletion]] = {
            Initialise: self._initialise,
            Apply: self._apply,
            Measure: self._measure,
            Discard: self._discard,
            Cancel: self._cancel,
        }

    def _add_nodes(self, preset: Preset, nodes: Sequence[WorldNode], seed: int) -> None:
        physics = {name: NodePhysics.of(model) for name, model in preset.nodes.items()}
        for spec in nodes:
            node = self._nodes[spec.node] = _Node(spec.node, physics[spec.model])
            clock = preset.nodes[spec.model].clock
            if clock is not None:
                node.clock = ClockInfo.of(clock, crc32(f"{seed} {spec.node}".encode()))
            for name, kind in spec.qubits.items():
                qubit = node.qubits[name] = _Qubit(spec.node, name, kind, physics[spec.model].kinds[kind])
                if kind is QubitKind.STORAGE:
                    node.storage.append(qubit)

    def _add_links(self, preset: Preset, links: Sequence[WorldLink]) -> None:
        physics = {name: LinkPhysics.of(model) for name, model in preset.links.items()}
        for spec in links:
            link = WindowLink(link_id=spec.link_id, ends=spec.ends, station=spec.station, physics=physics[spec.model])
            for party in link.parties:
                self._nodes.setdefault(party, _Node(party, None)).links[link.link_id] = link

    # -- what nodes reach ---------------------------------------------------------------------------------------------

    def submit(self, node: NodeId, batch_id: int, instructions: Sequence[AnyInstruction], now_ns: int) -> None:
        """Execute a batch in order. Its answer comes out of `take_completions`, now or when its window has ended.

        The first instruction that fails ends the batch: it and all after it are answered with `Failed`.
        """
        self._advance(now_ns)
        owner = self._nodes.get(node)
        if owner is None or len(instructions) > MAX_BATCH_INSTRUCTIONS:
            text = f"there is no node {node!r} in this world" if owner is None else "the batch is too long"
            self._completed.append(
                BatchCompleted(node=node, batch_id=batch_id, completions=(_failed(text),) * len(instructions))
            )
            return
        done: list[AnyCompletion] = []
        for instruction in instructions:
            handler = self._handlers.get(type(instruction))
            try:
                if handler is not None:
                    done.append(handler(owner, instruction))
                    continue
                if not isinstance(instruction, Arm):
                    raise BackendError(f"{type(instruction).__name__} is not an instruction")
                if len(done) != len(instructions) - 1:
                    raise BackendError("Arm may only come last in a batch")
                self._arm(owner, batch_id, tuple(done), instruction)
                return
            except BackendError as error:
                done.append(_failed(str(error)))
                rest = _failed(f"not executed: instruction {len(done)} of the batch failed")
                done += [rest] * (len(instructions) - len(done))
                break
        self._completed.append(BatchCompleted(node=node, batch_id=batch_id, completions=tuple(done)))

    def release_all(self, node: NodeId, now_ns: int) -> None:
        """Free a node that is gone or has restarted: its qubits, its windows. Its open batches are never answered."""
        self._advance(now_ns)
        owner = self._nodes.get(node)
        if owner is None:
            return
        self._windows.release(node, self._now_ns)
        for qubit in owner.qubits.values():
            qubit.window = None
            self._free(qubit)
        owner.detectors = Detectors(owner.detectors.settings)
        self._settle()
        self._completed = [completed for completed in self._completed if completed.node != node]

    def qubits(self, node: NodeId) -> tuple[QubitInfo, ...]:
        """Name a node's qubits with their kinds; none for a node that is not there."""
        owner = self._nodes.get(node)
        return tuple(QubitInfo(name=qubit.name, kind=qubit.kind) for qubit in owner.qubits.values()) if owner else ()

    def links(self, node: NodeId) -> tuple[LinkInfo, ...]:
        """Tell which links a node is attached to, as an end or as the station, and what they are like."""
        owner = self._nodes.get(node)
        return tuple(self._link_info(node, link) for link in owner.links.values()) if owner else ()

    def clock(self, node: NodeId) -> ClockInfo | None:
        """Tell of a node's clock that disciplines itself, if it has one."""
        owner = self._nodes.get(node)
        return None if owner is None else owner.clock

    def _link_info(self, node: NodeId, link: WindowLink) -> LinkInfo:
        return LinkInfo(
            link_id=link.link_id,
            ends=link.ends,
            station=link.station,
            is_station=node == link.station,
            attempt_period_ns=link.physics.clock.mean_period_ns / self._time_scale,
            success_probability=link.physics.success_probability,
            fidelity_ratio=link.physics.fidelity_ratio,
        )

    # -- what the caller drives ---------------------------------------------------------------------------------------

    def next_deadline_ns(self) -> int | None:
        """Tell when `handle_deadline` has something to do; None when no window is open."""
        return self._windows.next_deadline_ns()

    def handle_deadline(self, now_ns: int) -> None:
        """Let the world's time pass: windows end. Calling it early does nothing."""
        self._advance(now_ns)

    def take_completions(self) -> list[BatchCompleted]:
        """Drain the batches that were answered since the last call, in order."""
        completed, self._completed = self._completed, []
        return completed

    def inspect(self, qubits: Sequence[tuple[NodeId, QubitName]], now_ns: int) -> ComplexArray:
        """Look at the true state of qubits of any nodes, without disturbing it. No node can do that.

        A qubit that is armed shows what it held before, until its window has ended.

        Returns:
            The reduced density matrix, shape (2ⁿ, 2ⁿ), first qubit slowest.

        Raises:
            BackendError: for a qubit that is not there, not held or named twice, for none, or for more
                than a group may have.
        """
        self._advance(now_ns)
        keys: list[Hashable] = []
        for node, name in qubits:
            owner = self._nodes.get(node)
            if owner is None:
                raise BackendError(f"there is no node {node!r} in this world")
            qubit = owner.qubits.get(name)
            if qubit is None or not qubit.held:
                raise BackendError(f"{node} holds no qubit {name!r}")
            keys.append(self._touch(qubit).key)
        return self._engine.density_matrix(keys)

    def held(self, node: NodeId) -> set[QubitName]:
        """Name the qubits that a node holds."""
        owner = self._nodes.get(node)
        return {qubit.name for qubit in owner.qubits.values() if qubit.held} if owner else set()

    @property
    def open_windows(self) -> int:
        """How many windows have an armed party."""
        return len(self._windows)

    def world_time_ns(self, now_ns: int) -> int:
        """Give world time at `now_ns` of the caller's clock."""
        elapsed_ns = now_ns - self._start_ns
        return now_ns if self._time_scale == 1 else self._start_ns + round(elapsed_ns * self._time_scale)

    # -- instructions -------------------------------------------------------------------------------------------------

    def _initialise(self, owner: _Node, instruction: Initialise) -> AnyCompletion:
        qubit = self._own_qubit(owner, instruction.qubit)
        self._put([qubit], qubit.physics.initial, self._now_ns)
        return _DONE

    def _apply(self, owner: _Node, instruction: Apply) -> AnyCompletion:
        gate, names = instruction.gate, instruction.qubits
        if not isinstance(gate, Gate):
            raise BackendError(f"{gate!r} is not a gate")
        if len(names) != gate.qubits:
            raise BackendError(f"gate {gate.value} acts on {gate.qubits} qubits, got {len(names)}")
        if len(names) == 2 and names[0] == names[1]:
            raise BackendError(f"gate {gate.value} on qubit {names[0]!r} twice")
        if not math.isfinite(instruction.angle):
            raise BackendError(f"gate {gate.value} with angle {instruction.angle}, expected a finite number")
        qubits = [self._held_qubit(owner, name) for name in names]
        angle = instruction.angle if gate.has_angle else 0.0
        channel = noisy_gate(gate, angle, gate_fidelity([qubit.physics for qubit in qubits]))
        self._engine.apply(channel, [self._touch(qubit).key for qubit in qubits])
        return _DONE

    def _measure(self, owner: _Node, instruction: Measure) -> AnyCompletion:
        qubit = self._held_qubit(owner, instruction.qubit)
        bit = self._engine.measure(self._touch(qubit).key, self._rng)
        error = qubit.physics.readout_error
        if error and self._rng.random() < error:
            bit ^= 1
        if qubit.physics.is_communication and owner.physics is not None and owner.physics.crosstalk is not None:
            for neighbour in owner.storage:
                if neighbour.held:
                    self._engine.apply(owner.physics.crosstalk, [self._touch(neighbour).key])
        return _BITS[bit]

    def _discard(self, owner: _Node, instruction: Discard) -> AnyCompletion:
        self._free(self._own_qubit(owner, instruction.qubit))
        return _DONE

    def _cancel(self, owner: _Node, instruction: Cancel) -> AnyCompletion:
        for link in owner.links.values():
            self._windows.cancel(link, instruction.window_id, owner.node, self._now_ns)
        self._settle()
        return _DONE

    def _arm(self, owner: _Node, batch_id: int, before: tuple[AnyCompletion, ...], arm: Arm) -> None:
        """Arm a party; its batch is answered when the window has ended, which may be at once."""
        link = owner.links.get(arm.link_id)
        if link is None:
            raise BackendError(f"{owner.node} is not attached to link {arm.link_id!r}")
        if not 1 <= arm.attempts <= MAX_ATTEMPTS_PER_WINDOW:
            raise BackendError(f"{arm.attempts} attempts, expected 1 to {MAX_ATTEMPTS_PER_WINDOW}")
        if arm.timeout_ns < 1 or arm.start_in_ns < 0:
            raise BackendError("expected a timeout of at least 1 ns and a start that is not in the past")
        if len(arm.window_id) > MAX_ID_CHARS:
            raise BackendError(f"window id is longer than {MAX_ID_CHARS} characters")
        qubit = self._armed_qubit(owner, link, arm)
        self._windows.check(link, arm.window_id, owner.node, arm.bright_ratio)
        switch_ns = 0
        if qubit is not None:
            if not qubit.held:
                self._put([qubit], GROUND, self._now_ns)
            qubit.window = arm.window_id
        elif owner.detectors.free:
            owner.detectors.queue(link.link_id, _turn_of(link, arm.window_id))
            (turn,) = owner.detectors.take_turns()
            switch_ns = math.ceil(turn.switch_ns / self._time_scale)
        else:
            raise BackendError(f"all detectors of {owner.node} are in use")
        party = Party(
            node=owner.node,
            batch_id=batch_id,
            completions=before,
            qubit=arm.qubit,
            begin_ns=self._now_ns + max(arm.start_in_ns, switch_ns),
            timeout_ns=self._now_ns + arm.timeout_ns,
            attempts=arm.attempts,
            keeps_time=arm.start_in_ns > 0,
            bright_ratio=arm.bright_ratio,
        )
        self._windows.arm(link, arm.window_id, party, self._now_ns)
        self._settle()

    def _armed_qubit(self, owner: _Node, link: WindowLink, arm: Arm) -> _Qubit | None:
        if owner.node not in link.ends:
            if arm.qubit is not None:
                raise BackendError(f"{owner.node} is the station of link {link.link_id!r} and arms without a qubit")
            return None
        if arm.qubit is None:
            raise BackendError(f"{owner.node} is an end of link {link.link_id!r} and arms with a qubit")
        qubit = self._own_qubit(owner, arm.qubit)
        if not qubit.physics.is_communication:
            raise BackendError(f"qubit {qubit.name!r} is a {qubit.kind.value} qubit, links need a communication qubit")
        return qubit

    # -- qubits and time ----------------------------------------------------------------------------------------------

    def _advance(self, now_ns: int) -> None:
        """Move the clock, never back, and let end what is due."""
        if now_ns > self._now_ns:
            self._now_ns = now_ns
        self._windows.advance(self._now_ns)
        self._settle()

    def _settle(self) -> None:
        """Give the windows that ended their consequences: states and answers."""
        for outcome in self._windows.take_outcomes():
            self._settle_qubits(outcome)
            for party in outcome.parties:
                if party.qubit is None:
                    self._nodes[party.node].detectors.give_back(_turn_of(outcome.link, outcome.window_id))
                saw = outcome.bell_state if party.node == outcome.link.station else None
                ended = WindowEnded(window_id=outcome.window_id, attempts=outcome.attempts, bell_state=saw)
                self._completed.append(
                    BatchCompleted(node=party.node, batch_id=party.batch_id, completions=(*party.completions, ended))
                )

    def _settle_qubits(self, outcome: WindowOutcome) -> None:
        """Put a window's qubits into what it left: a pair; or, after failed attempts, a state nobody knows."""
        armed = {
            party.node: self._nodes[party.node].qubits[party.qubit]
            for party in outcome.parties
            if party.qubit is not None
        }
        for qubit in armed.values():
            qubit.window = None
        if outcome.state is not None:
            self._put([armed[end] for end in outcome.link.ends], outcome.state, outcome.at_ns)
        elif outcome.attempts > 0:
            for qubit in armed.values():
                self._put([qubit], MIXED, outcome.at_ns)

    def _own_qubit(self, owner: _Node, name: QubitName) -> _Qubit:
        """Find a qubit that the node has and may act on now."""
        qubit = owner.qubits.get(name)
        if qubit is None:
            raise BackendError(f"{owner.node} has no qubit {name!r}")
        if qubit.window is not None:
            raise BackendError(f"qubit {name!r} is armed for window {qubit.window!r}")
        return qubit

    def _held_qubit(self, owner: _Node, name: QubitName) -> _Qubit:
        qubit = self._own_qubit(owner, name)
        if not qubit.held:
            raise BackendError(f"qubit {name!r} of {owner.node} is free: initialise or arm it first")
        return qubit

    def _put(self, qubits: list[_Qubit], state: ComplexArray, at_ns: int) -> None:
        """Take qubits and put them into a state, at a time of the caller's clock."""
        self._engine.create([qubit.key for qubit in qubits], state)
        world_ns = self.world_time_ns(at_ns)
        for qubit in qubits:
            qubit.held = True
            qubit.touched_ns = world_ns

    def _free(self, qubit: _Qubit) -> None:
        if qubit.held:
            self._engine.discard(qubit.key)
            qubit.held = False

    def _touch(self, qubit: _Qubit) -> _Qubit:
        """Let a held qubit live through the time since it was last touched."""
        physics = qubit.physics
        if physics.decays:
            world_ns = self.world_time_ns(self._now_ns)
            if world_ns > qubit.touched_ns:
                elapsed_ns = world_ns - qubit.touched_ns
                self._engine.idle(qubit.key, elapsed_ns, physics.t1_ns, physics.t2_ns)
                qubit.touched_ns = world_ns
        return qubit


def _turn_of(link: WindowLink, window_id: WindowId) -> WindowId:
    """What a window is called at the detectors: other links may have windows of that name."""
    return WindowId(f"{link.link_id}/{window_id}")


def _failed(text: str) -> Failed:
    return Failed(text=text if len(text) <= MAX_TEXT_CHARS else text[: MAX_TEXT_CHARS - 1] + "…")
