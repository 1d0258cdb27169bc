"""The command `peers`: who is in session with whom, and which way their messages go."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from bellwire.agent.use import Client, Timeout, find_client
from bellwire.protocols.errors import BellwireError, RequestError
from bellwire.protocols.ids import NodeId, node_id
from bellwire.shell.options import NETWORK, Json, show_json, show_table

app = typer.Typer()


@app.command("peers", rich_help_panel=NETWORK)
def peers(
    nodes: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NODE …]", help="Whom to ask. [default: all nodes]"),
    ] = None,
    timeout: Timeout = 5.0,
    client: Client = None,
    json: Json = False,
) -> None:
    """Show with whom every node is in session, and whether its messages go there directly or by way of the broker.

    Nodes connect to each other when they first have something to say. Without a broker, name the nodes.

    Example: `bellwire peers`, `bellwire peers alice --json`
    """
    asked = [node_id(name) for name in nodes or ()]
    rows, silent = asyncio.run(_peers(find_client(client), asked, timeout))
    if json:
        show_json(rows)
    else:
        show_table("Sessions", ("node", "peer", "path"), [tuple(row.values()) for row in rows])
    if silent:
        raise BellwireError("; ".join(silent))


async def _peers(path: Path, nodes: list[NodeId], timeout_s: float) -> tuple[list[dict[str, str]], list[str]]:
    """A row for each session of each node, and what went wrong with those that did not answer."""
    from bellwire.client.net import connect

    rows: list[dict[str, str]] = []
    silent: list[str] = []
    async with connect(path) as network:
        asked = nodes or await network.nodes(timeout_s=timeout_s)
        answers = await asyncio.gather(
            *(network.peers(node, timeout_s=timeout_s) for node in asked), return_exceptions=True
        )
        for node, answer in zip(asked, answers, strict=True):
            if isinstance(answer, RequestError):
                silent.append(f"{node}: {answer}")
            elif isinstance(answer, BaseException):
                raise answer
            else:
                ways = {**dict.fromkeys(answer.direct, "direct"), **dict.fromkeys(answer.relayed, "relayed")}
                rows += [{"node": node, "peer": peer, "path": ways[peer]} for peer in sorted(ways)]
    return rows, silent
