"""Time tags over real sockets and in real processes: taggers that misbehave, and stations that herald from tags."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import tomllib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loopback import ALICE, BOB, C0, LINK, QUBITS, STATION, WAIT_S, WorldLab
from processes import prepared_processes
from scene import ideal_with
from slice_of_network import Slice
from testbeds import write_testbed

from bellwire.agent.brain import AgentBrain
from bellwire.agent.driver import BrainCapable, NodeDaemon
from bellwire.agent.testbed import prepare
from bellwire.backends.contract import check_backend
from bellwire.backends.interface import BackendContext, NodeBackend
from bellwire.backends.registry import load_backend
from bellwire.protocols.endpoint import Endpoint
from bellwire.protocols.errors import ConfigError, TransportError
from bellwire.protocols.ids import LinkId, NodeId, WindowId, pair_id
from bellwire.protocols.instructions import AnyCompletion, BellState, WindowEnded
from bellwire.protocols.link_book import LinkSettings
from bellwire.protocols.messages import LinkCreate, LinkCreated, LinkOk, ProgramResult, ProgramRun, Role, Step
from bellwire.protocols.messages.program import StepKind
from bellwire.shell.config import to_toml
from bellwire.sim.messages import WORLD, WorldInspect, WorldState
from bellwire.sim.preset import load_preset
from bellwire.sim.states import bell_density_matrix
from bellwire.sim.topology import WorldLink, WorldNode
from bellwire.sim.world import World
from bellwire.tags.backend import TagBackend
from bellwire.tags.files import open_tags
from bellwire.tags.format import COUNT, MAX_CHUNK_TAGS, Header, encode_tags
from bellwire.tags.settings import FinderSettings
from bellwire.tags.sources import paced
from bellwire.tags.stream import CHUNK_TAGS, Tags
from bellwire.tags.wire import SocketSource, TagServer
from bellwire.tags.world import WorldSource
from bellwire.transport.clock import local_time_ns, new_epoch

HEADER = Header(resolution_ps=4, channels={0: "trigger", 1: "one"})
TAGS = Tags.of([(time, time % 3) for time in range(1_000)])
FINDER = FinderSettings(trigger=0, gates_ps=((10, 30),), patterns=((1, 2, BellState.PSI_PLUS),))

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def chunk(tags: Tags) -> bytes:
    return COUNT.pack(len(tags)) + encode_tags(tags).tobytes()


@asynccontextmanager
async def tagger(talk: Talk) -> AsyncIterator[str]:
    """A server that says what a test wants it to, and then nothing until its client has left."""
    talking: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        talking.add(task)
        try:
            await talk(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await asyncio.gather(*talking, return_exceptions=True)
        await server.wait_closed()


async def until_left(reader: asyncio.StreamReader) -> None:
    async with asyncio.timeout(WAIT_S):
        await reader.read()


async def take(source: SocketSource, parts: list[Tags] | None = None) -> None:
    """Take all tags of a source, until it ends with an error, which is raised."""
    async with aclosing(source.chunks()) as chunks:
        async for tags in chunks:
            if parts is not None:
                parts.append(tags)


# Sockets.


async def test_server_gives_every_client_all_tags_from_the_beginning() -> None:
    many = Tags(np.arange(3 * CHUNK_TAGS, dtype=np.int64), np.ones(3 * CHUNK_TAGS, dtype=np.int16))
    ends: asyncio.Queue[bool] = asyncio.Queue()
    server = TagServer(HEADER, lambda: paced([TAGS, many], 0), ends.put_nowait)
    address = await server.start("127.0.0.1:0")
    for _ in range(2):
        source, parts = SocketSource(address, WAIT_S), list[Tags]()
        with pytest.raises(TransportError, match="ended its connection"):
            await take(source, parts)
        assert max(map(len, parts)) <= MAX_CHUNK_TAGS
        whole = Tags.joined(parts)
        assert np.array_equal(whole.times_ps, np.concatenate([TAGS.times_ps, many.times_ps]))
        assert source.header == HEADER
        assert await asyncio.wait_for(ends.get(), WAIT_S)
    await server.close()


async def test_server_whose_client_leaves_serves_the_next() -> None:
    ends: asyncio.Queue[bool] = asyncio.Queue()
    more = asyncio.Event()

    async def stream() -> AsyncGenerator[Tags]:
        yield TAGS
        await more.wait()
        while True:
            yield TAGS
            await asyncio.sleep(0)

    server = TagServer(HEADER, stream, ends.put_nowait)
    address = await server.start("127.0.0.1:0")
    for _ in range(2):
        async with aclosing(SocketSource(address, WAIT_S).chunks()) as chunks:
            assert len(await anext(chunks)) == 0
            assert len(await anext(chunks)) == len(TAGS)
        more.set()
        assert not await asyncio.wait_for(ends.get(), WAIT_S)
    await server.close()


async def test_server_at_an_address_in_use_says_so() -> None:
    server, other = TagServer(HEADER, lambda: paced([], 0)), TagServer(HEADER, lambda: paced([], 0))
    address = await server.start("127.0.0.1:0")
    with pytest.raises(ConfigError, match=f"{address}: cannot be listened at"):
        await other.start(address)
    await other.close()
    await server.close()


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"", "sent nothing whole for 0.05 s"),
        (HEADER.encode()[:70], "sent nothing whole for 0.05 s"),
        (HEADER.encode() + chunk(TAGS)[:-1], "sent nothing whole for 0.05 s"),
    ],
)
async def test_tagger_that_falls_silent_is_lost_also_within_a_chunk(said: bytes, why: str) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        await until_left(reader)

    async with tagger(talk) as address:
        with pytest.raises(TransportError, match=why):
            await take(SocketSource(address, 0.05))


async def test_tagger_that_trickles_and_completes_no_chunk_is_lost_too() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEADER.encode() + COUNT.pack(MAX_CHUNK_TAGS))
        left = asyncio.ensure_future(until_left(reader))
        while not left.done():
            writer.write(b"x")
            await asyncio.wait({left}, timeout=0.005)

    async with tagger(talk) as address:
        with pytest.raises(TransportError, match=r"sent nothing whole for 0\.1 s"):
            await take(SocketSource(address, 0.1))


async def test_tagger_that_is_quiet_but_alive_stays() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEADER.encode())
        for _ in range(5):
            writer.write(chunk(Tags.of([])))
        writer.write(chunk(TAGS))
        await until_left(reader)

    async with tagger(talk) as address, aclosing(SocketSource(address, WAIT_S).chunks()) as chunks:
        assert [len(await anext(chunks)) for _ in range(7)] == [0] * 6 + [len(TAGS)]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"HTTP/1.1 200 OK\r\n" + bytes(100), "holds no time tags"),
        (HEADER.encode()[:-1] + b"x", "the header is corrupt: its checksum does not fit"),
        (HEADER.encode()[:90], "ended in the middle of a chunk"),
        (HEADER.encode() + chunk(TAGS)[:-1], "ended in the middle of a chunk"),
        (HEADER.encode() + COUNT.pack(2**31), "a chunk of 2147483648 tags, at most 65536 are allowed"),
        (HEADER.encode() + chunk(Tags.of([(2**62, 1)])), "corrupt: a time of 4611686018427387904 ps is out of range"),
        (HEADER.encode() + chunk(TAGS), "ended its connection"),
    ],
)
async def test_tagger_that_sends_no_stream_of_tags_is_lost_with_the_reason(said: bytes, why: str) -> None:
    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        await writer.drain()

    async with tagger(talk) as address:
        with pytest.raises(TransportError) as error:
            await take(SocketSource(address, WAIT_S))
        assert why in str(error.value)
        assert str(error.value).startswith(address)


async def test_tagger_that_is_not_there_is_lost_with_the_reason() -> None:
    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise AssertionError

    async with tagger(talk) as address:
        pass
    with pytest.raises(TransportError, match=f"{address}: .*[Rr]efused"):
        await take(SocketSource(address, WAIT_S))


async def test_backend_over_a_socket_keeps_the_contract_of_backends() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEADER.encode())
        await until_left(reader)

    async with tagger(talk) as address:
        report = await check_backend(
            lambda: TagBackend(SocketSource(address, WAIT_S), FINDER), link_id=LinkId("link"), timeout_s=WAIT_S
        )
    assert not report.skipped


# A station that heralds from tags.

PSI_LINK = """
heralds = ["psi+", "psi-"]
attempt_period = { value = 0.0, unit = "ns", tag = "assumed", source = "test" }
success_probability = { value = 0.02, unit = "1", tag = "assumed", source = "test" }
werner_fidelity = { value = 1.0, unit = "1", tag = "assumed", source = "test" }
"""


class PsiLab(WorldLab):
    """A world whose links herald as a double click does: one attempt in fifty, Ψ+ or Ψ−."""

    async def open(self, bind: str = "tcp://127.0.0.1:*") -> None:
        preset = self.keys.directory / "psi.toml"
        preset.write_text(ideal_with(PSI_LINK), encoding="utf-8")
        await super().open(bind)
        self.daemon.server.world = World(
            preset=load_preset(preset),
            nodes=[WorldNode(node=node, model="ideal", qubits=QUBITS) for node in (ALICE, BOB)],
            links=[WorldLink(link_id=LINK, ends=(ALICE, BOB), station=STATION, model="ideal")],
            seed=7,
            start_ns=local_time_ns(),
        )


class TagSlice(Slice):
    """A testbed whose station finds its heralds in time tags. `truth` is what the world said of its windows."""

    def __init__(self, directory: Path, simulation: dict[str, Any]) -> None:
        super().__init__(directory)
        self.lab = PsiLab(directory)
        self.simulation = simulation
        self.truth: dict[WindowId, tuple[int, BellState | None]] = {}

    async def __aenter__(self) -> TagSlice:
        await super().__aenter__()
        return self

    async def start_node(self, name: NodeId, backend: NodeBackend | None = None) -> NodeDaemon:
        return await super().start_node(name, self.tag_backend() if name == STATION else backend)

    def tag_backend(self) -> NodeBackend:
        keys = self.keys.directory
        options = {
            "source": "world",
            "simulation": self.simulation,
            "world": {"endpoint": self.lab.daemon.endpoint, "server_key": str(keys / f"{WORLD}.key")},
        }
        backend = load_backend(
            "tags",
            BackendContext(
                node=STATION,
                role=Role.STATION,
                epoch=new_epoch(),
                directory=keys,
                secret_key=keys / f"{STATION}.key_secret",
                options=options,
            ),
        )
        assert isinstance(backend, TagBackend)
        source = backend.source
        assert isinstance(source, WorldSource)
        told = source.completed

        def completed(number: int, completions: tuple[AnyCompletion, ...]) -> None:
            if isinstance(completions[-1], WindowEnded):
                ended = completions[-1]
                self.truth[ended.window_id] = (ended.attempts, ended.bell_state)
            told(number, completions)

        source.completed = completed  # type: ignore[method-assign]
        return backend

    @staticmethod
    def _brain(endpoint: Endpoint) -> BrainCapable:
        if endpoint.role is Role.STATION:
            return Slice._brain(endpoint)
        settings = LinkSettings(
            link_id=LINK,
            peer=BOB if endpoint.node == ALICE else ALICE,
            station=STATION,
            primary=endpoint.node == ALICE,
            scheme="double-click",
            attempts=300,
        )
        return AgentBrain(endpoint, [settings], application_timeout_ns=int(WAIT_S) * 10**9, draw=lambda: 0.0)

    async def pairs(self, number: int) -> list[LinkOk]:
        """Have pairs made one after the other; check each against the world's true state, and give it back."""
        oracle = await self.lab.observer()
        made = []
        for _ in range(number):
            await self.application.ask(ALICE, LinkCreate(peer=BOB, max_time_ns=int(WAIT_S) * 10**9), LinkCreated)
            (_, ok), (_, other) = [await self.application.received(LinkOk) for _ in range(2)]
            assert (ok.pair_id, ok.bell_state) == (other.pair_id, other.bell_state)
            state = await oracle.ask(WORLD, WorldInspect(qubits=((ALICE, C0), (BOB, C0))), WorldState)
            true = (np.array(state.real) + 1j * np.array(state.imag)).reshape(4, 4)
            assert np.abs(true - bell_density_matrix(ok.bell_state)).max() < 1e-9
            made.append(ok)
            release = ProgramRun(steps=(Step(kind=StepKind.RELEASE, qubits=(ok.pair_id,)),))
            for node in (ALICE, BOB):
                await self.application.ask(node, release, ProgramResult)
        return made


@pytest.mark.parametrize("encoding", ["polarisation", "time-bin"])
async def test_station_on_tags_heralds_the_pairs_of_the_truth(tmp_path: Path, encoding: str) -> None:
    async with TagSlice(tmp_path, {"encoding": encoding, "dark_hz": 0.0}) as net:
        oks = await net.pairs(12)
        heralded = {
            pair_id(window, attempt): state for window, (attempt, state) in net.truth.items() if state is not None
        }
        assert {ok.pair_id: ok.bell_state for ok in oks} == heralded
        assert {ok.bell_state for ok in oks} == {BellState.PSI_PLUS, BellState.PSI_MINUS}
        assert max(attempt for attempt, _ in net.truth.values()) > 10


async def test_station_on_tags_full_of_dark_counts_makes_no_ghost_pair(tmp_path: Path) -> None:
    """A false herald names an attempt that the ends' hardware did not stop at: no pair comes of it."""
    async with TagSlice(tmp_path, {"dark_hz": 200_000.0, "efficiencies": [0.5, 0.5]}) as net:
        oks = await net.pairs(12)
        assert len(net.truth) > 12
        for ok in oks:
            window, _, attempt = ok.pair_id.rpartition("/")
            assert net.truth[WindowId(window)] == (int(attempt), ok.bell_state)


async def test_station_on_tags_finds_its_world_again(tmp_path: Path) -> None:
    async with TagSlice(tmp_path, {"dark_hz": 0.0}) as net:
        await net.pairs(1)
        await net.restart_world()
        await net.pairs(2)


# Processes.

BELLWIRE = [sys.executable, "-m", "bellwire.shell"]


async def bellwire(*arguments: str | Path) -> tuple[int, str, str]:
    """Run a command to its end."""
    process = await asyncio.create_subprocess_exec(
        *BELLWIRE, *map(str, arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, said = await asyncio.wait_for(process.communicate(), 2 * WAIT_S)
    return process.returncode or 0, out.decode(), said.decode()


async def test_station_process_with_tags_in_its_file_heralds_pairs_for_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "psi.toml").write_text(ideal_with(PSI_LINK), encoding="utf-8")
    links = {"alice-bob": {"attempts": 300}}
    testbed = write_testbed(tmp_path / "testbed.toml", {"alice": {}, "bob": {}}, links, preset="psi.toml")
    prepared = prepare(testbed, tmp_path / "lab")
    file = tmp_path / "lab" / "hub.toml"
    station = tomllib.loads(file.read_text(encoding="utf-8"))
    station["backend"] = {"name": "tags", "options": {"source": "world", "world": station["backend"]["options"]}}
    file.write_text(to_toml(station), encoding="utf-8")
    async with prepared_processes(prepared) as running:
        code, out, said = await bellwire(
            "entangle", "alice", "bob", "-n", "5", "--measure", "--json", "--client", prepared.client
        )
        assert code == 0, said
        pairs = json.loads(out)["pairs"]
        assert {pair["bell_state"] for pair in pairs} <= {"psi+", "psi-"}
        assert [pair["bits"] in ("01", "10") for pair in pairs] == [True] * 5
        assert await running.stop("hub") == 0


async def test_tags_are_served_recorded_and_found_as_they_were(tmp_path: Path) -> None:
    demo, copy = tmp_path / "demo.tags", tmp_path / "copy.tags"
    code, _, said = await bellwire("tags", "simulate", demo, "-n", "200000")
    assert code == 0, said
    server = await asyncio.create_subprocess_exec(
        *(*BELLWIRE, "tags", "replay", str(demo), "--listen", "127.0.0.1:0", "--speed", "0"), stderr=subprocess.PIPE
    )
    try:
        assert server.stderr is not None
        line = (await asyncio.wait_for(server.stderr.readline(), WAIT_S)).decode()
        address = next(word.rstrip(";") for word in line.split() if word.startswith("tcp://"))
        tags = open_tags(demo).tags
        code, out, said = await bellwire("tags", "record", address, copy, "-n", str(tags), "--json")
        assert code == 0, said
        assert json.loads(out) == {"file": str(copy), "tags": tags}
        assert copy.read_bytes() == demo.read_bytes()
        found = [
            json.loads((await bellwire("tags", "find", path, "--limit", "0", "--json"))[1]) for path in (demo, copy)
        ]
        assert found[0]["counts"] == found[1]["counts"]
        assert found[0]["coincidences"] == found[1]["coincidences"]
        assert found[0]["found"] == len(found[0]["coincidences"]) > 1_000
    finally:
        server.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(server.wait(), WAIT_S) == 0


async def test_recording_that_is_interrupted_is_whole(tmp_path: Path) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEADER.encode() + chunk(TAGS))
        await until_left(reader)

    path = tmp_path / "run.tags"
    async with tagger(talk) as address:
        process = await asyncio.create_subprocess_exec(
            *(*BELLWIRE, "tags", "record", address, str(path), "--json"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stderr is not None
        assert b"Ctrl-C ends it" in await asyncio.wait_for(process.stderr.readline(), WAIT_S)
        process.send_signal(signal.SIGINT)
        out, said = await asyncio.wait_for(process.communicate(), WAIT_S)
    assert process.returncode == 0, said
    opened = open_tags(path)
    assert opened.whole
    assert json.loads(out)["tags"] == opened.tags
