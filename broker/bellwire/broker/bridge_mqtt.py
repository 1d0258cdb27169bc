"""Carries envelopes by MQTT 5. The MQTT brokers need not be trusted: they see who talks to whom, and how much.

Quality of service 0: what a participant asks is repeated until it is answered, and a directory is compared with every beat, so
a second layer of acknowledgements would only let old envelopes arrive late. Nothing is retained, for the same reason.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from urllib.parse import urlsplit

from aiomqtt import Client, MqttError, ProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from bellwire.protocols.errors import ConfigError

PORTS = {"mqtt": 1883, "mqtts": 8883}
QUEUE = 2_048
"""Envelopes that wait to be sent, and that wait to be taken. More are dropped."""

PART = QUEUE // 8
"""Envelopes of one participant that wait to be sent."""

EXPIRY_S = 3
"""An MQTT broker that could not deliver an envelope for this long drops it."""

KEEPALIVE_S = 5
CONNECT_S = 4.0
BACKOFF_S = 0.1
BACKOFF_LIMIT_S = 2.0

Publication = tuple[str, bytes, str]
"""A topic, an envelope, and the participant whose message it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttServer:
    """Where an MQTT broker is."""

    host: str
    port: int
    tls: bool

    @classmethod
    def parse(cls, url: str) -> MqttServer:
        """Read `mqtt://HOST[:PORT]`, or `mqtts` for TLS.

        Raises:
            ConfigError: when it is none.
        """
        wrong = ConfigError(f"{url!r} is not mqtt://HOST[:PORT] or mqtts://HOST[:PORT]")
        try:
            parts = urlsplit(url)
            port = parts.port
            (parts.hostname or "").encode("idna")  # as whoever looks the host up does
        except ValueError:
            raise wrong from None
        bare = not (parts.username or parts.password or parts.path.strip("/") or parts.query or parts.fragment)
        if parts.scheme not in PORTS or not parts.hostname or not bare:
            raise wrong
        return cls(host=parts.hostname, port=port or PORTS[parts.scheme], tls=parts.scheme == "mqtts")


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttConfig:
    """The MQTT brokers of a cluster, tried in turn, and the account there, if they ask for one."""

    servers: tuple[MqttServer, ...]
    username: str | None = None
    password: str | None = field(default=None, repr=False)


class Mqtt:
    """A connection to a cluster of MQTT brokers, which comes back by itself."""

    def __init__(
        self,
        config: MqttConfig,
        topics: tuple[str, ...],
        *,
        receive: Callable[[bytes], None],
        changed: Callable[[bool], None],
        failed: Callable[[BaseException], None],
        report: Callable[[str], None] | None = None,
        random: Random | None = None,
    ) -> None:
        """Hear `topics`; `changed` is told whether the connection stands, whenever that changes.

        `failed` is told what ended it otherwise than by `close`: it does not come back then.
        """
        self.up = False
        self._config = config
        self._topics = topics
        self._receive = receive
        self._changed = changed
        self._failed = failed
        self._report = report
        self._random = random or Random()
        self._queue: asyncio.Queue[Publication] = asyncio.Queue(QUEUE)
        self._parts: Counter[str] = Counter()
        self._task: asyncio.Task[None] | None = None
        self._closing = False

    def start(self) -> None:
        """Begin to connect, on the running loop."""
        self._task = asyncio.get_running_loop().create_task(self._stay_connected())
        self._task.add_done_callback(self._ended)

    def publish(self, topic: str, data: bytes, sender: str = "") -> bool:
        """Send an envelope. Returns whether there was room for it and somewhere to send it.

        What holds the message of a participant, `sender`, finds room for `PART` of them at a time.
        """
        if not self.up or self._queue.full() or (sender and self._parts[sender] >= PART):
            return False
        self._queue.put_nowait((topic, data, sender))
        self._parts[sender] += 1
        return True

    async def close(self) -> None:
        """Disconnect, having sent what is queued if that can be done at once."""
        if self._task is None:
            return
        await asyncio.sleep(0)  # what was published in this turn of the loop leaves
        self._closing = True
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._task = None

    async def _stay_connected(self) -> None:
        backoff_s, turn = BACKOFF_S, 0
        while True:
            server = self._config.servers[turn % len(self._config.servers)]
            was_up = False
            try:
                async with self._client(server) as client:
                    await self._subscribe(client)
                    was_up, backoff_s = True, BACKOFF_S
                    self._note(True)
                    await self._carry(client)
            except (MqttError, OSError, ssl.SSLError) as error:
                self._tell(f"MQTT at {server.host}:{server.port}: {error}")
            finally:
                self._note(False)
            if self._closing:
                return  # the client may have taken the cancellation for itself
            turn += not was_up
            await asyncio.sleep(backoff_s * self._random.uniform(1.0, 2.0))
            backoff_s = min(2 * backoff_s, BACKOFF_LIMIT_S)

    def _client(self, server: MqttServer) -> Client:
        return Client(
            server.host,
            server.port,
            username=self._config.username,
            password=self._config.password,
            protocol=ProtocolVersion.V5,
            clean_start=True,
            timeout=CONNECT_S,
            keepalive=KEEPALIVE_S,
            max_queued_incoming_messages=QUEUE,
            tls_context=ssl.create_default_context() if server.tls else None,
            socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
        )

    async def _subscribe(self, client: Client) -> None:
        for topic in self._topics:
            granted = await client.subscribe(topic, options=SubscribeOptions(qos=0, noLocal=True))
            if any(getattr(code, "is_failure", False) for code in granted):
                raise MqttError(f"may not subscribe to {topic}")

    async def _carry(self, client: Client) -> None:
        """Send and receive until the connection is gone."""
        carried = {asyncio.ensure_future(self._send_all(client)), asyncio.ensure_future(self._receive_all(client))}
        try:
            await asyncio.wait(carried, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._note(False)
            for each in carried:
                each.cancel()
            ended = await asyncio.gather(*carried, return_exceptions=True)
        for error in ended:
            if isinstance(error, Exception):
                raise error

    async def _send_all(self, client: Client) -> None:
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        properties.MessageExpiryInterval = EXPIRY_S
        while self.up:  # `asyncio.wait_for`, below the client, may swallow a cancellation (before Python 3.12)
            topic, data, sender = await self._queue.get()
            self._took(sender)
            await client.publish(topic, data, properties=properties)

    async def _receive_all(self, client: Client) -> None:
        async for message in client.messages:
            if isinstance(message.payload, bytes):
                self._receive(message.payload)

    def _note(self, up: bool) -> None:
        if up == self.up:
            return
        self.up = up
        while not up and not self._queue.empty():
            self._took(self._queue.get_nowait()[2])
        self._changed(up)

    def _took(self, sender: str) -> None:
        """One envelope of a participant waits no more; who has none waiting is forgotten."""
        self._parts[sender] -= 1
        if not self._parts[sender]:
            del self._parts[sender]

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed(error)

    def _tell(self, text: str) -> None:
        if self._report is not None:
            self._report(text)
