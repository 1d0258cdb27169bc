"""Secret keys appear nowhere but in their files: not in logs, not in answers, not when daemons fail."""

from __future__ import annotations

import asyncio
import base64
import signal
import sys
from contextlib import AsyncExitStack
from pathlib import Path

from zmq.utils import z85

from bellwire.agent.testbed import Part, prepare
from bellwire.protocols.ids import NodeId
from bellwire.transport.keys import load_secret, revoke

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "two-nodes" / "testbed.toml"
PATIENCE_S = 30


def shapes(path: Path) -> list[bytes]:
    """How a secret could be written."""
    secret = load_secret(path).secret
    return [secret, z85.encode(secret), secret.hex().encode(), base64.b64encode(secret), repr(secret)[2:-1].encode()]


class Daemon:
    """A daemon at its most talkative, and all that it has said."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.said = bytearray()
        self.process: asyncio.subprocess.Process

    async def start(self) -> None:
        """Start it and wait until it is ready."""
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bellwire.shell", self.part.command, str(self.part.config)),
            *("--until-eof", "--log-level", "debug"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert self.process.stdout is not None
        self.said += await asyncio.wait_for(self.process.stdout.readline(), PATIENCE_S)

    async def says(self, text: bytes) -> None:
        """Wait until it has logged something."""
        assert self.process.stderr is not None
        async with asyncio.timeout(PATIENCE_S):
            while text not in self.said:
                line = await self.process.stderr.readline()
                assert line, f"{self.part.name} has ended"
                self.said += line

    async def stop(self) -> None:
        """End it, and take the rest of what it says."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        out, err = await asyncio.wait_for(self.process.communicate(), PATIENCE_S)
        self.said += out + err


async def test_daemons_at_their_most_talkative_write_no_secret(tmp_path: Path) -> None:
    """Refusals, revocations and losses are logged as well."""
    prepared = prepare(EXAMPLE, tmp_path)
    daemons = {part.name: Daemon(part) for part in prepared.parts}
    async with AsyncExitStack() as stack:
        for daemon in daemons.values():
            await daemon.start()
            stack.push_async_callback(daemon.stop)
        revoke(NodeId("alice"), tmp_path / "authorized" / "broker")
        await daemons["broker"].says(b"ended the connections of alice")
        await daemons["alice"].says(b"refused the key of alice")
        await daemons["alice"].says(b"peer lost")
    secrets = sorted((tmp_path / "keys").glob("*.key_secret"))
    assert len(secrets) >= 6
    for path in secrets:
        for shape in shapes(path):
            assert not any(shape in daemon.said for daemon in daemons.values()), path.name
