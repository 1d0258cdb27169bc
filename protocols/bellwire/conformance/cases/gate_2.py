"""3 §2: teleported gates, with the target of the kit as the gate's target and as its source."""

from __future__ import annotations

from typing import Any

from bellwire.conformance.catalogue import NODE, Failed, Section
from bellwire.conformance.party import Party
from bellwire.conformance.plays import SECOND_NS, Link, led_pair, offered
from bellwire.conformance.stage import Stage
from bellwire.conformance.target import FAR, OTHER, PEER
from bellwire.conformance.wire import Message, brief

section = Section()

QUBIT = "q"


def step(kind: str, *qubits: str, **fields: Any) -> dict[str, Any]:
    """A step of a program."""
    known = {"kind": kind, "qubits": list(qubits), "gate": None, "angle": 0.0, "reference": False, "gates_with": None}
    return known | fields


def initialise(party: Party, *names: str, gates_with: list[str] | None = None) -> None:
    """Have the target give an application qubits. Raises `Failed` when it does not."""
    steps = [step("initialise", name, gates_with=gates_with) for name in names or (QUBIT,)]
    answer = party.ask("program.run", steps=steps)
    if answer["type"] != "program.result":
        raise Failed(f"expected program.result; came: {brief(answer)}")


class Asked:
    """A gate that the kit's node opens at the target, over a pair of the application's."""

    def __init__(self, stage: Stage, *, lifetime_ns: int = 5 * SECOND_NS, gates_with: list[str] | None = None) -> None:
        self.stage = stage
        self.link = Link(stage)
        self.link.pair(expires_ns=stage.network_ns() + lifetime_ns)
        self.source = self.link.primary
        self.gate_id = f"{PEER}-{self.source.epoch:x}-1"
        initialise(stage.application, gates_with=gates_with)

    def fields(self, **fields: Any) -> dict[str, Any]:
        """The fields of a `gate.open`."""
        known = {
            "gate_id": self.gate_id,
            "pair_id": self.link.pair_id,
            "kind": "cz",
            "variant": "sequential",
            "application": self.stage.application.name,
            "qubit": QUBIT,
            "deadline_ns": self.stage.network_ns() + 5 * SECOND_NS,
        }
        return known | fields

    def open(self, **fields: Any) -> None:
        """Open it. Raises `Failed` when the target refuses."""
        answer = self.source.ask("gate.open", **self.fields(**fields))
        if answer["type"] != "gate.ready":
            raise Failed(f"expected gate.ready; came: {brief(answer)}")

    def refused(self, code: str, **fields: Any) -> None:
        """Have it refused with a code."""
        self.source.refused(code, "gate.open", **self.fields(**fields))

    def outcome(self, *bits: int) -> Message:
        """Send the source's bits."""
        return self.source.send("gate.outcome", gate_id=self.gate_id, bits=list(bits))


def busy(stage: Stage, asked: bool) -> None:
    """Check whether the application's qubit is in use."""
    answer = stage.application.ask("program.run", steps=[step("measure", QUBIT)])
    if (answer.get("code") == "NORES") != asked:
        raise Failed(f"expected the qubit to be {'in use' if asked else 'free to use'}; came: {brief(answer)}")


@section.must("GATE-2.2-01", "| it shares no such pair with the sender | `UNKNOWN_ID` |", NODE)
def no_pair(stage: Stage) -> None:
    """A gate over a pair that is not there, or is shared with another node, is refused with UNKNOWN_ID."""
    gate = Asked(stage)
    gate.refused("UNKNOWN_ID", pair_id="never/1")
    far = stage.party(FAR)
    far.greet()
    far.refused("UNKNOWN_ID", "gate.open", **gate.fields())


@section.must("GATE-2.2-02", "| its half belongs to another application than `application` | `DENIED` |", NODE)
def others_pair(stage: Stage) -> None:
    """A gate for another application than the pair's owner is refused with DENIED."""
    gate = Asked(stage)
    stage.party(OTHER).greet()
    initialise(stage.party(OTHER))
    gate.refused("DENIED", application=OTHER)


@section.must(
    "GATE-2.2-12", "`application` has allowed its `qubit` to others than the sender alone (§4) | `DENIED`", NODE
)
def qubit_for_others(stage: Stage) -> None:
    """A gate on a qubit that is for another neighbour alone is refused with DENIED, one on a qubit for the sender is not."""
    gate = Asked(stage, gates_with=[FAR])
    gate.refused("DENIED")
    initialise(stage.application, gates_with=[PEER])
    gate.open()


@section.must("GATE-2.2-03", "| `application` has no `qubit` here | `UNKNOWN_ID` |", NODE)
def no_qubit(stage: Stage) -> None:
    """A gate on a qubit that the application does not have is refused with UNKNOWN_ID."""
    Asked(stage).refused("UNKNOWN_ID", qubit="no-such")


@section.must("GATE-2.2-04", "| `deadline_ns` is past | `NOTIME` |", NODE)
def late(stage: Stage) -> None:
    """A gate whose deadline is past is refused with NOTIME."""
    gate = Asked(stage)
    gate.refused("NOTIME", deadline_ns=stage.network_ns() - SECOND_NS)


@section.must("GATE-2.2-05", "| the gate is under way already | `REJECTED` |", NODE)
def under_way(stage: Stage) -> None:
    """A gate that is under way is refused under another number with REJECTED."""
    gate = Asked(stage)
    gate.open()
    gate.refused("REJECTED")


@section.must("GATE-2.2-06", "| its half is not CONFIRMED (2 §4.1 says when it counts as such) | `REJECTED` |", NODE)
def reserved(stage: Stage) -> None:
    """A second gate over a pair that a gate has reserved is refused with REJECTED."""
    gate = Asked(stage)
    initialise(stage.application, "other")
    gate.open()
    gate.refused("REJECTED", gate_id="another", qubit="other")


@section.must(
    "GATE-2.2-07",
    "Otherwise it reserves its half, `qubit` is in use by the gate, and it answers with `gate.ready`.",
    NODE,
)
def prepared(stage: Stage) -> None:
    """The target is ready, and its qubit is in use."""
    gate = Asked(stage)
    gate.open()
    busy(stage, True)


@section.must("GATE-2.2-08", "otherwise it waits, PREPARED, for the source's outcome", NODE)
def waits(stage: Stage) -> None:
    """In the sequential variant the target sends nothing before the source's outcome."""
    gate = Asked(stage)
    gate.open()
    gate.source.never("gate.outcome", during_s=stage.patience_s / 10)


@section.must("GATE-2.2-09", "In the symmetric variant it begins to act at once", NODE)
def acts_at_once(stage: Stage) -> None:
    """In the symmetric variant the target sends its outcome by itself, of one bit."""
    gate = Asked(stage)
    gate.open(variant="symmetric")
    outcome = gate.source.expect("gate.outcome", gate_id=gate.gate_id)
    if len(outcome["bits"]) != 1:
        raise Failed(f"expected one bit; came: {brief(outcome)}")


@section.must("GATE-2.3-01", "| it has not as many bits as §3 says | `PROTOCOL` |", NODE)
def too_many_bits(stage: Stage) -> None:
    """An outcome of two bits, where one is due, is refused with PROTOCOL."""
    gate = Asked(stage)
    gate.open()
    gate.source.expect("session.error", code="PROTOCOL", request_id=gate.outcome(0, 1)["request_id"])


@section.must("GATE-2.3-02", "| no such gate is under way with the sender | `UNKNOWN_ID` |", NODE)
def no_gate(stage: Stage) -> None:
    """An outcome of no gate, and one of another node's gate, is refused with UNKNOWN_ID."""
    gate = Asked(stage)
    gate.open()
    gate.source.refused("UNKNOWN_ID", "gate.outcome", gate_id="no-gate", bits=[0])
    far = stage.party(FAR)
    far.greet()
    far.refused("UNKNOWN_ID", "gate.outcome", gate_id=gate.gate_id, bits=[0])


@section.must("GATE-2.3-03", "an outcome of this gate has come before, under another `request_id` | `PROTOCOL`", NODE)
def outcome_twice(stage: Stage) -> None:
    """A second outcome is refused with PROTOCOL."""
    gate = Asked(stage)
    gate.open()
    gate.outcome(0)
    gate.source.expect("gate.outcome")
    gate.source.expect("session.error", code="PROTOCOL", request_id=gate.outcome(0)["request_id"])


@section.must("GATE-2.3-04", "| sequential | source to target, then target to source |", NODE)
def sequential(stage: Stage) -> None:
    """A sequential gate: the target acts on the source's bit, sends its own, and is done."""
    gate = Asked(stage)
    gate.open()
    sent = gate.outcome(0)
    bits = gate.source.expect("gate.outcome", gate_id=gate.gate_id)
    done = gate.source.expect("gate.done", request_id=sent["request_id"])
    gate.source.reply(bits, "gate.done", gate_id=gate.gate_id)
    if len(bits["bits"]) != 1 or done["gate_id"] != gate.gate_id:
        raise Failed(f"expected one bit and gate.done; came: {brief(bits)}; {brief(done)}")
    busy(stage, False)


@section.must("GATE-2.3-05", "Otherwise it owes the answer, `gate.done`, until it has carried out everything", NODE)
def symmetric(stage: Stage) -> None:
    """A symmetric gate: bits cross, and each outcome is answered with `gate.done`."""
    gate = Asked(stage)
    gate.open(variant="symmetric", kind="cnot")
    bits = gate.source.expect("gate.outcome", gate_id=gate.gate_id)
    sent = gate.outcome(1)
    gate.source.reply(bits, "gate.done", gate_id=gate.gate_id)
    gate.source.expect("gate.done", request_id=sent["request_id"])
    busy(stage, False)


@section.must("GATE-2.3-06", "| state | source to target | `gate.done` has come | it has acted |", NODE)
def state(stage: Stage) -> None:
    """A teleported state: two bits come, none are sent, and the target is done."""
    gate = Asked(stage)
    gate.open(kind="state")
    sent = gate.outcome(1, 0)
    gate.source.expect("gate.done", request_id=sent["request_id"])
    gate.source.never("gate.outcome", during_s=stage.patience_s / 10)


@section.must("GATE-2.4-01", "PREPARED (target) | FAILED", NODE)
def target_gives_up(stage: Stage) -> None:
    """A target that has not acted by the deadline gives its qubit back and releases the pair."""
    gate = Asked(stage)
    gate.open(deadline_ns=stage.network_ns() + SECOND_NS // 3)
    gate.source.expect("pair.release", pair_id=gate.link.pair_id)
    busy(stage, False)


@section.must("GATE-2.4-02", "answers an outcome that it still owes an answer with the gate's error", NODE)
def owed(stage: Stage) -> None:
    """A target that acted, and whose outcome is refused, does not say that it is done with a gate that is lost."""
    gate = Asked(stage)
    gate.open(variant="symmetric")
    bits = gate.source.expect("gate.outcome", gate_id=gate.gate_id)
    gate.source.refuse(bits, "UNKNOWN_ID")
    gate.source.expect("session.error", code="UNKNOWN_ID", request_id=gate.outcome(0)["request_id"])


# The target of the kit as the source.


class Led:
    """A gate that the application asks of the target, towards the far end."""

    def __init__(self, stage: Stage, **fields: Any) -> None:
        self.stage = stage
        self.far = stage.party(FAR)
        self.pair = led_pair(stage)
        initialise(stage.application)
        self.asked = request(stage, pair_id=self.pair["pair_id"], **fields)
        self.opening = self.far.expect("gate.open")

    def act(self) -> Message:
        """Be ready, and give the target's outcome."""
        self.far.reply(self.opening, "gate.ready")
        return self.far.expect("gate.outcome", gate_id=self.opening["gate_id"])

    def result(self, status: str, code: str | None) -> Message:
        """The answer that the application gets. Raises `Failed` when it is another."""
        result = self.stage.application.expect("gate.result", "session.error", request_id=self.asked["request_id"])
        if (result.get("status"), result.get("code")) != (status, code):
            raise Failed(f"expected gate.result {status} {code or ''}; came: {brief(result)}")
        return result


def request(stage: Stage, **fields: Any) -> Message:
    """Ask the target for a gate."""
    known = {"kind": "cz", "variant": "sequential", "qubit": QUBIT, "peer": FAR, "peer_qubit": "t", "pair_id": ""}
    known_too = {"min_fidelity": 0.0, "max_time_ns": 5 * SECOND_NS}
    return stage.application.send("gate.request", **(known | known_too | fields))


def request_refused(stage: Stage, code: str, **fields: Any) -> None:
    """Have a gate's request refused with a code."""
    asked = request(stage, **fields)
    answer = stage.application.expect("gate.result", "session.error", request_id=asked["request_id"])
    if answer["type"] != "session.error" or answer["code"] != code:
        raise Failed(f"expected gate.request to be refused with {code}; came: {brief(answer)}")


@section.must("GATE-2.1-01", "| it has no link to `peer` | `UNSUPP` |", NODE)
def no_link(stage: Stage) -> None:
    """A gate with a node that no link leads to is refused with UNSUPP."""
    stage.application.greet()
    initialise(stage.application)
    request_refused(stage, "UNSUPP", peer="nobody")


@section.must("GATE-2.1-02", "with `pair_id`: the application has no such pair with `peer` here | `UNKNOWN_ID`", NODE)
def not_its_pair(stage: Stage) -> None:
    """A gate over a pair that the application does not have is refused with UNKNOWN_ID."""
    stage.application.greet()
    initialise(stage.application)
    request_refused(stage, "UNKNOWN_ID", pair_id="never/1")


@section.must("GATE-2.1-03", "| the application has no `qubit` here | `UNKNOWN_ID` |", NODE)
def not_its_qubit(stage: Stage) -> None:
    """A gate on a qubit that the application does not have is refused with UNKNOWN_ID."""
    stage.application.greet()
    request_refused(stage, "UNKNOWN_ID", qubit="no-such")


@section.must("GATE-2.1-04", "| `qubit` is in use | `NORES` |", NODE)
def qubit_in_use(stage: Stage) -> None:
    """A second gate on the same qubit is refused with NORES."""
    Led(stage)
    request_refused(stage, "NORES")


@section.must("GATE-2.1-05", "the half is RESERVED, and the source sends `gate.open` to the target", NODE)
def opens(stage: Stage) -> None:
    """The source opens the gate as it was asked, until the pair expires at the latest."""
    gate = Led(stage, kind="cnot")
    wanted = {"pair_id": gate.pair["pair_id"], "kind": "cnot", "variant": "sequential", "qubit": "t"}
    wanted["application"] = stage.application.name
    if any(gate.opening[name] != value for name, value in wanted.items()):
        raise Failed(f"expected gate.open with {wanted}; came: {brief(gate.opening, 400)}")
    if gate.opening["deadline_ns"] > gate.pair["expires_ns"]:
        raise Failed(f"expected a deadline until {gate.pair['expires_ns']}; came: {gate.opening['deadline_ns']}")


@section.must("GATE-2.1-06", "`purpose_id` 1 and no application (2 §2)", NODE)
def makes_pair(stage: Stage) -> None:
    """Without a pair the source makes one, of purpose 1 and for no application."""
    stage.application.greet()
    stage.party(FAR).greet()
    initialise(stage.application)
    request(stage)
    added = stage.party(FAR).expect("link.add")
    if (added["number"], added["purpose_id"], added["application"]) != (1, 1, ""):
        raise Failed(f"expected link.add of one pair, purpose 1, no application; came: {brief(added, 400)}")


@section.must("GATE-2.1-07", "If that ends with an error, the gate has FAILED with its code.", NODE)
def no_pair_made(stage: Stage) -> None:
    """When no pair can be made the gate has failed, with that code."""
    stage.application.greet()
    stage.party(FAR).greet()
    initialise(stage.application)
    asked = request(stage)
    stage.party(FAR).refuse(stage.party(FAR).expect("link.add"), "NORES")
    stage.application.expect("gate.result", request_id=asked["request_id"], status="failed", code="NORES")
    busy(stage, False)


@section.must("GATE-2.2-10", "ends the gate at the source as FAILED, with that code", NODE)
def refused(stage: Stage) -> None:
    """A gate that the target refuses has failed with its code, and the pair is released."""
    gate = Led(stage)
    gate.far.refuse(gate.opening, "DENIED")
    gate.result("failed", "DENIED")
    gate.far.expect("pair.release", pair_id=gate.pair["pair_id"])
    busy(stage, False)


@section.must("GATE-2.3-07", "When the source is DONE it answers the application with `gate.result`.", NODE)
def source_sequential(stage: Stage) -> None:
    """A sequential gate of the source: its bit, then the target's, and the application hears that it is done."""
    gate = Led(stage)
    bits = gate.act()
    back = gate.far.send("gate.outcome", gate_id=gate.opening["gate_id"], bits=[0])
    gate.far.expect("gate.done", request_id=back["request_id"])
    gate.far.reply(bits, "gate.done", gate_id=gate.opening["gate_id"])
    gate.result("done", None)
    busy(stage, False)


@section.must("GATE-2.2-11", "In the symmetric variant it also begins when the target's outcome comes first", NODE)
def outcome_first(stage: Stage) -> None:
    """In the symmetric variant the target's outcome, come before `gate.ready`, says that it is ready."""
    gate = Led(stage, variant="symmetric")
    back = gate.far.send("gate.outcome", gate_id=gate.opening["gate_id"], bits=[1])
    bits = gate.far.expect("gate.outcome", gate_id=gate.opening["gate_id"])
    gate.far.expect("gate.done", request_id=back["request_id"])
    gate.far.reply(bits, "gate.done", gate_id=gate.opening["gate_id"])
    gate.result("done", None)


@section.must("GATE-2.3-08", "its own corrections are done and `gate.done` has come", NODE)
def not_done_before(stage: Stage) -> None:
    """The application hears nothing before the target's `gate.done`."""
    gate = Led(stage)
    gate.act()
    back = gate.far.send("gate.outcome", gate_id=gate.opening["gate_id"], bits=[0])
    gate.far.expect("gate.done", request_id=back["request_id"])
    stage.application.never("gate.result", during_s=stage.patience_s / 10)


@section.must("GATE-2.4-03", "| OPENING (source) | FAILED: the target acts only on the source's bits |", NODE)
def lost_while_opening(stage: Stage) -> None:
    """A sequential gate whose target leaves before it is ready has failed."""
    gate = Led(stage)
    gate.far.leave()
    gate.result("failed", "PEER_LOST")


@section.must("GATE-2.4-04", "INDETERMINATE: the target may have acted at ready", NODE)
def symmetric_lost_while_opening(stage: Stage) -> None:
    """A symmetric gate whose target leaves before it is ready is indeterminate."""
    gate = Led(stage, variant="symmetric")
    gate.far.leave()
    gate.result("indeterminate", "PEER_LOST")


@section.must("GATE-2.4-05", "In all other cases it is INDETERMINATE.", NODE)
def lost_while_awaiting(stage: Stage) -> None:
    """A gate whose target leaves after the source has acted is indeterminate."""
    gate = Led(stage)
    gate.act()
    gate.far.leave()
    gate.result("indeterminate", "PEER_LOST")


@section.must(
    "GATE-2.4-06", "An outcome that gets no answer by then, or is refused, makes the gate INDETERMINATE.", NODE
)
def outcome_refused(stage: Stage) -> None:
    """A gate whose outcome the target refuses is indeterminate."""
    gate = Led(stage)
    gate.far.refuse(gate.act(), "UNKNOWN_ID")
    gate.result("indeterminate", "INDETERMINATE")


@section.must("GATE-2.4-07", "A gate of a peer that is merely silent goes on until its deadline.", NODE)
def silent(stage: Stage) -> None:
    """A gate whose target falls silent after the source has acted is indeterminate at its deadline."""
    gate = Led(stage)
    gate.act()
    gate.far.beats = gate.far.greets = False
    result = gate.stage.application.expect("gate.result", within_s=3 * stage.patience_s, status="indeterminate")
    if stage.network_ns() < gate.opening["deadline_ns"] - SECOND_NS // 10:
        raise Failed(f"the gate ended before its deadline: {brief(result)}")


@section.must(
    "PAIR-4.1-12", "If the secondary uses the pair towards the primary (3 §2.2) before its answer has come", NODE
)
def used_before_answer(stage: Stage) -> None:
    """A gate of the secondary's over a pair that it has not answered for says that it has confirmed it."""
    _, _, claim = offered(stage)
    initialise(stage.application)
    fields = {"gate_id": "far-1", "pair_id": claim["pair_id"], "kind": "cz", "variant": "sequential"}
    fields |= {"application": stage.application.name, "qubit": QUBIT}
    answer = stage.party(FAR).ask("gate.open", **fields, deadline_ns=stage.network_ns() + SECOND_NS)
    if answer["type"] != "gate.ready":
        raise Failed(f"expected gate.ready; came: {brief(answer)}")
