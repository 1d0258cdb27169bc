"""3 §4: programs, and what applications own."""

from __future__ import annotations

from typing import Any

from bellwire.conformance.cases.gate_2 import QUBIT, initialise, step
from bellwire.conformance.catalogue import NODE, Failed, Section
from bellwire.conformance.plays import Link
from bellwire.conformance.stage import Stage
from bellwire.conformance.target import APPLICATION, OTHER
from bellwire.conformance.wire import Message, brief

section = Section()


def run(stage: Stage, *steps: dict[str, Any], name: str = APPLICATION) -> Message:
    """Run a program for an application, and give the target's answer."""
    party = stage.party(name)
    if not party.up:
        party.greet()
    return party.ask("program.run", steps=list(steps))


def refused(stage: Stage, code: str, *steps: dict[str, Any], name: str = APPLICATION) -> None:
    """Have a program refused with a code."""
    answer = run(stage, *steps, name=name)
    if answer.get("code") != code:
        raise Failed(f"expected program.run to be refused with {code}; came: {brief(answer)}")


@section.must("PROG-4-01", "the answer is `program.result`", NODE)
def result(stage: Stage) -> None:
    """A program is answered with a bit for each measurement and a qubit for each initialisation."""
    steps = [step("initialise", "a"), step("initialise", "b"), step("apply", "a", "b", gate="cx")]
    answer = run(stage, *steps, step("measure", "a"), step("measure", "b"), step("measure", "b"))
    if answer["type"] != "program.result" or len(answer["bits"]) != 3 or len(set(answer["qubits"])) != 2:
        raise Failed(f"expected three bits and two qubits; came: {brief(answer)}")


@section.must(
    "PROG-4-02", "another number of operands, the same one twice, or an angle that is not finite | `UNSUPP`", NODE
)
def malformed(stage: Stage) -> None:
    """A step without a gate, with too few operands or the same twice, or an infinite angle is refused with UNSUPP."""
    begin = step("initialise", QUBIT)
    wrong = (
        step("apply", QUBIT),
        step("apply", QUBIT, gate="cx"),
        step("measure", QUBIT, "b"),
        step("apply", QUBIT, QUBIT, gate="cz"),
        step("apply", QUBIT, gate="rx") | {"angle": float("inf")},
    )
    for each in wrong:
        refused(stage, "UNSUPP", begin, each)


@section.must("PROG-4-03", "| there is no such operand | `UNKNOWN_ID` |", NODE)
def unknown(stage: Stage) -> None:
    """A name that the application does not have is refused with UNKNOWN_ID."""
    refused(stage, "UNKNOWN_ID", step("measure", "no-such"))


@section.must("PROG-4-04", "| by steps in order: no qubit of the kind is free | `NORES` |", NODE)
def no_qubit_free(stage: Stage) -> None:
    """More qubits than there are, and one of a kind that there is not, are refused with NORES."""
    refused(stage, "NORES", *(step("initialise", f"q{number}") for number in range(3)))
    refused(stage, "NORES", step("initialise", "r") | {"reference": True})


@section.must(
    "PROG-4-05", "Names are the application's own: another one's are as unknown as what does not exist.", NODE
)
def names_are_own(stage: Stage) -> None:
    """Another application's name is unknown."""
    stage.application.greet()
    initialise(stage.application)
    refused(stage, "UNKNOWN_ID", step("measure", QUBIT), name=OTHER)


@section.must("PROG-4-06", "| `release` | one | gives the qubit back; the name means nothing any more |", NODE)
def released(stage: Stage) -> None:
    """A name that was released is unknown, and its qubit is free."""
    for _ in range(3):
        answer = run(
            stage, step("initialise", "a"), step("initialise", "b"), step("release", "a"), step("release", "b")
        )
        if answer["type"] != "program.result":
            raise Failed(f"expected program.result; came: {brief(answer)}")
    refused(stage, "UNKNOWN_ID", step("measure", "a"))


@section.must(
    "PROG-4-07", "When an application is lost, in whatever way, its qubits and pairs at the node are given back", NODE
)
def application_lost(stage: Stage) -> None:
    """The qubits of an application that leaves, and of one that restarts, are free."""
    for leaves in (True, False):
        stage.application.greet()
        initialise(stage.application, "a", "b")
        if leaves:
            stage.application.leave()
        stage.again(APPLICATION).greet()
    other = stage.party(OTHER)
    other.greet()
    initialise(other, "a", "b")


@section.must("PROG-4-08", "Naming a pair in `apply`, `measure` or `release` **consumes** this node's half", NODE)
def consumes(stage: Stage) -> None:
    """A pair's id names its half, once for ever: it can be measured again, and another application cannot name it."""
    link = Link(stage)
    link.pair()
    refused(stage, "UNKNOWN_ID", step("measure", link.pair_id), name=OTHER)
    answer = run(stage, step("measure", link.pair_id), step("measure", link.pair_id))
    if len(answer.get("bits", ())) != 2:
        raise Failed(f"expected two bits; came: {brief(answer)}")


@section.must("PROG-4-09", "or keeps the one that it has, and puts it into |0⟩", NODE)
def initialised_again(stage: Stage) -> None:
    """A name that has a qubit keeps it."""
    first = run(stage, step("initialise", QUBIT))
    second = run(stage, step("initialise", QUBIT))
    if first["qubits"] != second["qubits"]:
        raise Failed(f"expected the same qubit; came: {brief(first)}; {brief(second)}")


@section.must(
    "PROG-4-10", "Nothing was carried out then, but qubits and halves that earlier steps took stay taken", NODE
)
def taken_stays(stage: Stage) -> None:
    """After a refused program the name that an earlier step took is the application's."""
    refused(stage, "UNKNOWN_ID", step("initialise", QUBIT), step("measure", "no-such"))
    answer = run(stage, step("measure", QUBIT))
    if answer["type"] != "program.result":
        raise Failed(f"expected program.result; came: {brief(answer)}")
