"""A whole network in virtual time whose members are sent hostile frames under the names of others, between real ones."""

from __future__ import annotations

from collections import deque
from typing import Final

from fuzzing import Mutator
from scene import ALICE, BOB, HUB, initialise, release, two_nodes

from bellwire.protocols.codec import CODEC, Undecodable
from bellwire.protocols.endpoint import Answer
from bellwire.protocols.errors import ErrorCode, RequestError
from bellwire.protocols.ids import BROKER, NodeId
from bellwire.protocols.messages import (
    GateKind,
    GateRequest,
    GateVariant,
    LinkCreate,
    ProgramRun,
    Request,
    TimeStatus,
)
from bellwire.sim.virtual import SECOND_NS, VirtualApplication
from bellwire.simnet.fabric import Frame, Rule
from bellwire.virtual.measures import Bounds
from bellwire.virtual.oracle import Oracle

PROBE, APP, MALLORY = NodeId("probe"), NodeId("app"), NodeId("mallory")
MEMBERS: Final = (BROKER, ALICE, BOB, HUB)
IDENTITIES: Final = (BROKER, ALICE, BOB, HUB, APP, MALLORY)
KEPT_FRAMES: Final = 400
LOSS_PROBABILITY: Final = 0.1
STEP: Final = 8
"""Inputs between two moments in which time passes."""
PROBING: Final = 250
"""Inputs between two valid requests to each member."""
LIFE: Final = 2_000
"""Inputs to one network: a peer can lock its own name out with an epoch from the far future, which ends its traffic."""


class FuzzedNetwork:
    """Feeds hostile frames to a broker, two agents and a station. `failures` says what must not have happened."""

    def __init__(self, seed: int) -> None:
        self.inputs = 0
        self.asked = 0
        self.failures: list[str] = []
        self._mutator = Mutator(seed)
        self._seed = seed
        self._begin()

    def feed(self, number: int) -> None:
        """Feed so many hostile frames. What a machine raises comes through: nothing may."""
        for _ in range(number):
            if self.inputs and self.inputs % LIFE == 0:
                self._end()
                self._begin()
            self.inputs += 1
            self._inject()
            if self.inputs % STEP == 0:
                self._bed.net.run_for(self._random.choice((10_000, 300_000, 2_000_000, 2_000_000, 30_000_000)))
                self._work()
            if self.inputs % PROBING == 0:
                self._probe()

    def _begin(self) -> None:
        self._seed += 1
        self._random = self._mutator.random
        self._frames: deque[Frame] = deque(maxlen=KEPT_FRAMES)
        lossy = Rule(matches=self._seen, loss_probability=LOSS_PROBABILITY, random=self._random)
        self._bed = two_nodes(self._seed, rules=[lossy])
        oracle = Oracle()
        oracle.bed = self._bed
        self._bounds, self._oracle = Bounds(oracle), oracle
        self._probing = self._bed.application(PROBE)
        self._app = self._bed.application(APP)
        self._waiting: list[tuple[NodeId, Request, list[Answer]]] = []
        self._bed.net.run_for(SECOND_NS)

    def _end(self) -> None:
        self._bed.net.run_for(10 * SECOND_NS)
        self._probe()

    def _seen(self, frame: Frame) -> bool:
        """Remember a real frame; those of the probe are left alone."""
        if PROBE in (frame.sender, frame.receiver):
            return False
        self._frames.append(frame)
        self._mutator.show(frame.data)
        return True

    def _inject(self) -> None:
        random, net = self._random, self._bed.net
        newest = random.randrange(min(len(self._frames), 40 if random.random() < 0.5 else KEPT_FRAMES))
        frame = self._frames[-1 - newest]
        sender, receiver = frame.sender, frame.receiver
        if random.random() < 0.2:
            sender = random.choice(IDENTITIES)
        if random.random() < 0.1 or receiver not in MEMBERS:
            receiver = random.choice(MEMBERS)
        if sender == receiver:
            sender = MALLORY
        data = self._mutator.mutate(frame.data)
        net.carry(Frame(sender=sender, receiver=receiver, data=data, sent_ns=net.now_ns), net.now_ns)

    def _work(self) -> None:
        """Let the application want something now and then, so that there are windows, pairs and gates to disturb."""
        random = self._random
        if random.random() > 0.7 or len(self._app.endpoint.asks) > 64:
            return
        kind, variant = random.choice(list(GateKind)), random.choice(list(GateVariant))
        gate = GateRequest(kind=kind, variant=variant, qubit="c", peer=BOB, peer_qubit="c", max_time_ns=SECOND_NS)
        take, leave = ProgramRun(steps=(initialise("c"),)), ProgramRun(steps=(release("c"),))
        source = random.choice((ALICE, BOB))
        request: Request = random.choice((gate, gate, take, take, leave, LinkCreate(peer=BOB, max_time_ns=SECOND_NS)))
        self._app.send(ALICE if request is gate else source, request, limit_ns=2 * SECOND_NS)

    def _probe(self) -> None:
        """Ask every member something that is valid, and see that it answers."""
        asked: list[tuple[NodeId, list[Answer]]] = [(member, self._ask(member)) for member in MEMBERS]
        self.asked += len(asked)
        self._bed.net.run_until(lambda: all(answers for _, answers in asked), limit_ns=60 * SECOND_NS)
        for member, (answer, *_) in asked:
            if isinstance(answer, RequestError) and answer.code in (ErrorCode.TIMEOUT, ErrorCode.PEER_LOST):
                self.failures.append(f"seed {self._seed}, input {self.inputs}: {member} did not answer: {answer}")
        self._bounds.sample()
        self.failures += [str(violation) for violation in self._oracle.violations]
        self._oracle.violations.clear()

    def _ask(self, member: NodeId) -> list[Answer]:
        probe: VirtualApplication = self._probing
        request: Request = TimeStatus()
        if member in (ALICE, BOB) and self._random.random() < 0.5:
            request = ProgramRun(steps=(release("nothing"),))
        return probe.send(member, request, limit_ns=20 * SECOND_NS)


def fuzz_decoder(seed: int, number: int, failures: list[str]) -> int:
    """Decode so many hostile frames, and after each a real one. Returns how many real ones were decoded.

    What decodes must encode to what decodes to the same; whatever does not must be refused as `Undecodable`.
    """
    mutator, frames = Mutator(seed), recorded(seed)
    for frame in frames:
        mutator.show(frame)
    valid = 0
    for place in range(number):
        frame = frames[place % len(frames)]
        data = mutator.mutate(frame)
        try:
            message = CODEC.decode(data)
        except Undecodable:
            message = CODEC.decode(frame)
            valid += 1
        again = CODEC.decode(CODEC.encode(message))
        if again != message and "nan" not in repr(message):
            failures.append(f"seed {seed}, input {place}: {message!r} came back as {again!r}")
    return valid


def recorded(seed: int) -> list[bytes]:
    """The frames of a network at work."""
    frames: list[bytes] = []

    def keep(frame: Frame) -> bool:
        frames.append(frame.data)
        return False

    bed = two_nodes(seed, rules=[Rule(matches=keep)])
    application = bed.application(APP)
    bed.net.run_for(SECOND_NS)
    for node in (ALICE, BOB):
        application.call(node, ProgramRun(steps=(initialise("c"),)))
    application.call(ALICE, LinkCreate(peer=BOB, max_time_ns=SECOND_NS))
    for kind in GateKind:
        gate = GateRequest(kind=kind, qubit="c", peer=BOB, peer_qubit="c", max_time_ns=SECOND_NS)
        application.call(ALICE, gate)
    application.call(HUB, TimeStatus())
    return frames
