"""What carries envelopes by MQTT, without any MQTT: who may have how much of it, and that it does not end unnoticed."""

from __future__ import annotations

import asyncio

import pytest
from loopback import WAIT_S

from bellwire.broker.bridge_mqtt import PART, QUEUE, Mqtt, MqttConfig, MqttServer
from bellwire.protocols.errors import ConfigError


def mqtt(host: str, failures: asyncio.Queue[BaseException]) -> Mqtt:
    config = MqttConfig(servers=(MqttServer(host=host, port=1, tls=False),))
    return Mqtt(config, (), receive=lambda _: None, changed=lambda _: None, failed=failures.put_nowait)


async def test_participant_that_floods_has_a_part_of_the_queue() -> None:
    carrier = mqtt("127.0.0.1", asyncio.Queue())
    carrier.up = True
    taken = [carrier.publish("topic", b"", "alice") for _ in range(PART + 1)]
    assert taken == [True] * PART + [False]
    assert carrier.publish("topic", b"", "bob")
    assert all(carrier.publish("topic", b"") for _ in range(QUEUE - PART - 1)), "the broker's own may take what is left"
    assert not carrier.publish("topic", b"")
    carrier._note(False)
    carrier.up = True
    assert carrier.publish("topic", b"", "alice"), "what was dropped waits no more"


async def test_part_of_the_queue_is_free_again_when_its_envelopes_are_sent() -> None:
    class Taking:
        async def publish(self, *_args: object, **_kwargs: object) -> None:
            taken.set()

    taken = asyncio.Event()
    carrier = mqtt("127.0.0.1", asyncio.Queue())
    carrier.up = True
    while carrier.publish("topic", b"", "alice"):
        pass
    sending = asyncio.ensure_future(carrier._send_all(Taking()))  # type: ignore[arg-type]
    async with asyncio.timeout(WAIT_S):
        await taken.wait()
    assert carrier.publish("topic", b"", "alice")
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)


async def test_task_that_dies_is_told_and_not_forgotten() -> None:
    failures: asyncio.Queue[BaseException] = asyncio.Queue()
    carrier = mqtt("a" * 64, failures)
    carrier.start()
    async with asyncio.timeout(WAIT_S):
        assert isinstance(await failures.get(), UnicodeError)
    await carrier.close()


async def test_task_that_is_closed_has_not_failed() -> None:
    failures: asyncio.Queue[BaseException] = asyncio.Queue()
    carrier = mqtt("127.0.0.1", failures)
    carrier.start()
    await carrier.close()
    assert failures.empty()


@pytest.mark.parametrize("host", ["a" * 64, "lab..example", "[::1"])
def test_host_that_cannot_be_looked_up_is_one_line(host: str) -> None:
    with pytest.raises(ConfigError, match="is not mqtt://"):
        MqttServer.parse(f"mqtt://{host}")
