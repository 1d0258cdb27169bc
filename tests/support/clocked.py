"""The ideal preset, whose nodes have clocks that discipline themselves."""

from __future__ import annotations

from importlib.resources import files

CLOCK = """
[nodes.ideal.clock]
accuracy = { value = 1.0, unit = "ns", tag = "derived", source = "White Rabbit Project: sub-nanosecond accuracy" }
jitter = { value = 13.0, unit = "ps", tag = "measured", source = "van Tour, Koelemeij, ASTERICS WP5: default switch" }
interval = { value = 200.0, unit = "ms", tag = "assumed", source = "a test that need not wait" }
"""


def clocked_preset() -> str:
    """Its text."""
    text = (files("bellwire.sim") / "presets" / "ideal.toml").read_text(encoding="utf-8")
    return text.replace("[links.ideal]", CLOCK + "\n[links.ideal]")
