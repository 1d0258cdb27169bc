"""Coverage-guided fuzzing of one agent, decoder included, with atheris: `make fuzz-guided ARGS="-runs=1000000"`.

Arguments are libFuzzer's own. It begins with the frames of a network at work, and follows what reaches new lines.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))

with atheris.instrument_imports(include=["bellwire.protocols", "bellwire.agent"]):
    from fuzzed_agent import FuzzedAgent
    from fuzzed_network import recorded
    from fuzzing import Mutator

LIFE = 2_000
"""Inputs to one agent."""


def main() -> None:
    """Fuzz until told otherwise."""
    agent, fed = FuzzedAgent(), 0

    def one(data: bytes) -> None:
        nonlocal agent, fed
        fed += 1
        if fed % LIFE == 0:
            agent = FuzzedAgent()
        agent.feed(data)

    mutator, frames = Mutator(1), recorded(1)
    for frame in frames:
        mutator.show(frame)

    def mutate(data: bytes, longest: int, seed: int) -> bytes:
        """Every third time libFuzzer's own mutation, otherwise one that keeps more of the structure."""
        if seed % 3 == 0:
            return bytes(atheris.Mutate(data, longest))
        mutator.random.seed(seed)
        sender = bytes((mutator.random.randrange(256),)) if seed % 5 == 0 else data[:1]
        return (sender + mutator.mutate(data[1:]))[:longest]

    with tempfile.TemporaryDirectory() as corpus:
        for place, frame in enumerate(frames):
            (Path(corpus) / f"{place:04}").write_bytes(bytes((place % 256,)) + frame)
        atheris.Setup([*sys.argv, corpus], one, custom_mutator=mutate)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
