"""Hostile frames, for the time of a test: `make fuzz` goes on for a million of them."""

from __future__ import annotations

import pytest
from fuzzed_agent import FuzzedAgent
from fuzzed_network import FuzzedNetwork, fuzz_decoder, recorded
from fuzzing import EVIL, TAGS, Mutator, pack
from hypothesis import given, settings
from hypothesis import strategies as st

from bellwire.protocols.codec import CODEC, Undecodable

FRAMES = recorded(1)

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text()
    | st.binary()
    | st.sampled_from(EVIL),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
fields = (
    "epoch",
    "peer_epoch",
    "request_id",
    "link_id",
    "window_id",
    "pair_id",
    "steps",
    "qubit",
    "bits",
    "deadline_ns",
    "kind",
)
messages = st.builds(
    lambda tag, content: pack({"type": tag, **content}),
    st.sampled_from(TAGS),
    st.dictionaries(st.sampled_from(fields), values, max_size=len(fields)),
)


@given(st.binary(max_size=400) | messages)
def test_decoder_given_anything_decodes_or_refuses(data: bytes) -> None:
    try:
        message = CODEC.decode(data)
    except Undecodable:
        return
    assert CODEC.encode(message)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=60) | messages), max_size=40))
def test_agent_given_anything_by_anybody_answers_the_next_valid_request(inputs: list[tuple[int, bytes]]) -> None:
    agent = FuzzedAgent()
    for first, data in inputs:
        agent.feed(bytes((first,)) + data)


@pytest.mark.parametrize("seed", range(3))
def test_decoder_fed_spoilt_real_frames_decodes_them_alike_or_refuses(seed: int) -> None:
    failures: list[str] = []
    assert fuzz_decoder(seed, 3_000, failures) > 500
    assert failures == []


@pytest.mark.parametrize("seed", range(1, 4))
def test_network_fed_hostile_frames_goes_on_and_keeps_its_bounds(seed: int) -> None:
    network = FuzzedNetwork(seed)
    network.feed(8_000)
    assert network.asked > 100
    assert network.failures == []


def test_mutations_follow_from_the_seed_and_differ_from_the_frame() -> None:
    first, second = Mutator(7), Mutator(7)
    made = [first.mutate(frame) for frame in FRAMES]
    assert made == [second.mutate(frame) for frame in FRAMES]
    assert sum(one != other for one, other in zip(made, FRAMES, strict=True)) > len(FRAMES) / 2
