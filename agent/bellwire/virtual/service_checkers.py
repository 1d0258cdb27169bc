"""The invariant of the link's service: whose turn it is, what is exclusive, what is handed over at once and what is kept."""

from __future__ import annotations

from typing import Final

from bellwire.protocols.events import Event
from bellwire.protocols.ids import CreateId, LinkId, NodeId, PairId
from bellwire.protocols.link import LinkEnd
from bellwire.protocols.pairs import PairState
from bellwire.protocols.queue import CreateSpec, RequestState
from bellwire.protocols.readout import Basis
from bellwire.virtual.checker import Checker

BASES: Final = frozenset(Basis)


class Service(Checker):
    """Priorities hold, an exclusive request is not interrupted, an atomic one is all or none, and type M keeps no qubit."""

    name = "service"

    def watch(self) -> None:
        """Register with the oracle."""
        self._specs: dict[tuple[NodeId, CreateId], CreateSpec] = {}
        self._handed: dict[tuple[NodeId, CreateId], int] = {}
        self._numbers: dict[tuple[LinkId, int], dict[int, CreateId]] = {}
        self._begun: set[tuple[NodeId, CreateId]] = set()
        """Requests for which a primary has opened a window."""
        self.oracle.listeners.noted.append(self._noted)

    def _noted(self, node: NodeId, event: Event) -> None:
        if event.name == "RequestAdded":
            create_id, link = CreateId(event.subjects[0]), self._link(node, event.subjects[1])
            self._specs[node, create_id] = link.book.requests[create_id].spec
            self._begun.discard((node, create_id))
        elif event.name == "WindowOpened" and node in self.oracle.bed.agents:
            self._opened(node, event.subjects[0], CreateId(event.subjects[1]))
        elif event.name == "PairConfirmed":
            self._confirmed(node, PairId(event.subjects[0]), CreateId(event.subjects[1]))
        elif event.name == "PairDelivered":
            self._delivered(node, CreateId(event.subjects[1]))
        elif event.name == "PairMeasured" and event.detail in BASES:
            self._measured(node, PairId(event.subjects[0]))

    def _link(self, node: NodeId, link_id: str) -> LinkEnd:
        return self.oracle.bed.agents[node].links[LinkId(link_id)]

    def _opened(self, node: NodeId, window_id: str, create_id: CreateId) -> None:
        """Hold the primary's choice against all that it could have chosen."""
        link = next(each for each in self.oracle.bed.agents[node].links.values() if create_id in each.book.requests)
        if not link.settings.primary:
            return
        chosen = link.book.requests[create_id]
        for other in link.book.requests.values():
            if other is chosen or other.state is not RequestState.QUEUED:
                continue
            what = f"{node} opens {window_id} for {create_id}"
            if other.spec.exclusive and (node, other.create_id) in self._begun:
                self.violate(f"{what}, in the middle of {other.create_id}, which is exclusive")
            elif (
                other.missing > 0
                and other.spec.priority > chosen.spec.priority
                and not (chosen.spec.exclusive and (node, create_id) in self._begun)
            ):
                self.violate(
                    f"{what} of priority {chosen.spec.priority}, before {other.create_id} of {other.spec.priority}"
                )
        others = [each.window_id for each in link.book.windows.values() if each.create_id != create_id]
        if chosen.spec.exclusive and others:
            self.violate(f"{node} opens {window_id} for {create_id}, which is exclusive, beside {', '.join(others)}")
        self._begun.add((node, create_id))

    def _confirmed(self, node: NodeId, pair_id: PairId, create_id: CreateId) -> None:
        """No pair of another request has a number between those of an exclusive one."""
        brain = self.oracle.bed.agents[node]
        pair, spec = brain.find_pair(pair_id), self._specs.get((node, create_id))
        link = next((each for each in brain.links.values() if pair_id in each.book.pairs), None)
        if pair is None or spec is None or link is None or not link.settings.primary:
            return
        numbers = self._numbers.setdefault((link.settings.link_id, brain.endpoint.epoch), {})
        numbers[pair.sequence_number] = create_id
        if spec.exclusive:
            own = [number for number, each in numbers.items() if each == create_id]
            between = {each for number, each in numbers.items() if min(own) < number < max(own)}
            if between - {create_id}:
                self.violate(f"{create_id} is exclusive, and pairs of {between - {create_id}} lie between its own")

    def _delivered(self, node: NodeId, create_id: CreateId) -> None:
        """When the first pair of an atomic request is handed over, all of them are there."""
        spec = self._specs[node, create_id]
        handed = self._handed[node, create_id] = self._handed.get((node, create_id), 0) + 1
        if handed > spec.number:
            self.violate(f"{node} hands over {handed} pairs of {create_id}, {spec.number} were asked for")
        if not spec.atomic or handed > 1:
            return
        links = self.oracle.bed.agents[node].links.values()
        held = [pair for link in links for pair in link.book.pairs.values() if pair.create_id == create_id]
        there = [pair for pair in held if pair.confirmed_ns and not self._given_back(node, pair.pair_id)]
        if len(there) < spec.number:
            self.violate(f"{node} hands over {create_id}, of whose {spec.number} pairs {len(there)} are there")

    def _given_back(self, node: NodeId, pair_id: PairId) -> bool:
        """Whether a node has let go of its half. One that a crash took is none of its doing, and it may not know yet."""
        made = self.oracle.pairs.get(pair_id)
        return made is not None and made.half(node).gone_ns is not None and not made.half(node).lost

    def _measured(self, node: NodeId, pair_id: PairId) -> None:
        """A half that was measured for a request of type M is given back at once."""
        made = self.oracle.pairs.get(pair_id)
        if made is not None and made.half(node).gone_ns is None:
            self.violate(f"{node} has measured {pair_id} and keeps its qubit")

    def sample(self) -> None:
        """Look for pairs that were kept for an atomic request, which has ended without them."""
        for node, brain in self.awake():
            for link in brain.links.values():
                for pair in link.book.pairs.values():
                    place = (node, pair.create_id)
                    spec = self._specs.get(place)
                    if spec is None or not spec.atomic or place in self._handed or not pair.confirmed_ns:
                        continue
                    if pair.state is PairState.CONFIRMED and pair.create_id not in link.book.requests:
                        self.violate(f"{node} keeps {pair.pair_id} for {pair.create_id}, which has ended without it")
