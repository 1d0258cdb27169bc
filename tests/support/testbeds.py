"""Files of testbeds for `bellwire up` and its like, of which a test says only what it is about."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bellwire.shell.config import to_toml

Tables = Mapping[str, Mapping[str, Any]]


def write_testbed(path: Path, nodes: Tables, links: Tables, **others: Any) -> Path:
    """Write a testbed of ideal nodes and links, but for what tables say. A link `a-b` is between a and b, over the hub."""
    ideal = {"station": "hub", "model": "ideal", "scheme": "any"}
    content: dict[str, Any] = {"name": path.stem, "preset": "ideal", "stations": {"hub": {}}, **others}
    content["nodes"] = {name: {"model": "ideal", **table} for name, table in nodes.items()}
    content["links"] = {link: {"ends": link.split("-"), **ideal, **table} for link, table in links.items()}
    path.write_text(to_toml(content), encoding="utf-8")
    return path
