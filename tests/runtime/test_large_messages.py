"""Messages are bounded in size: by the broker where it is ours, else by the service at its edge."""

import asyncio
import re
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import aio_pika
import pytest
from aio_pika.abc import AbstractConnection
from aio_pika.exceptions import ChannelPreconditionFailed

from compose.containers.env import FOLDER
from compose.local import rabbitmq
from compose.local.commands import RigError
from compose.local.rabbitmq import MAX_MESSAGE_BYTES_VARIABLE as VARIABLE
from compose.local.rig import LocalRig
from events.runtime.settings import MAX_MESSAGE_BYTES
from events.service import EXCHANGE
from events.telemetry import metrics
from tests.runtime.eventually import eventually
from tests.runtime.stage import Stage, message
from tests.runtime.standin_system import standin_blueprint
from tests.runtime.toy.facts import Bumped

LARGE_BYTES = 12_000_000
LARGE_ONES = 60
SMALL_BYTES = 10_000
BLOCKED_AFTER_SECONDS = 5.0


def large(size_bytes: int = LARGE_BYTES) -> aio_pika.Message:
    """A fact, but for a body that is too large."""
    sent = message(Bumped(order_id=uuid4()), uuid4())
    sent.body = sent.body.ljust(size_bytes)
    return sent


async def publish_large_ones(connection: AbstractConnection, count: int) -> None:
    """As an outsider who does not give up. Fails when one is taken."""
    for _ in range(count):
        channel = await connection.channel()
        exchange = await channel.get_exchange(EXCHANGE, ensure=False)
        with pytest.raises(ChannelPreconditionFailed, match="larger than configured max size"):
            await exchange.publish(large(), "toy.bumped.v1")


async def test_large_bodies_are_refused_and_keep_nobody_from_publishing(stage: Stage) -> None:
    """Nobody takes them off the queue: they would fill the broker's memory, which blocks all publishers."""
    orders = [uuid4() for _ in range(20)]
    async with await aio_pika.connect(stage.broker_url) as outsider:
        await publish_large_ones(outsider, LARGE_ONES)
        async with asyncio.timeout(BLOCKED_AFTER_SECONDS):
            await stage.say(*(Bumped(order_id=order) for order in orders))
    assert await stage.waiting_in_queue() == len(orders)
    await stage.start()
    await eventually(lambda: counted(stage, orders))
    assert await stage.dead_letters_are(0)


async def counted(stage: Stage, orders: list[Any]) -> bool:
    return await stage.counts(orders) == dict.fromkeys(orders, 1)


async def test_one_that_the_broker_lets_pass_is_a_dead_letter_at_once_and_whole(
    stage: Stage, logged: list[MutableMapping[str, Any]]
) -> None:
    orders = [uuid4() for _ in range(6)]
    good = [message(Bumped(order_id=order), uuid4()) for order in orders]
    sent, just = large(SMALL_BYTES + 1), large(SMALL_BYTES)
    await stage.publish(*good[:3], sent, just, *good[3:])
    await stage.start(max_request_bytes=SMALL_BYTES // 2, max_message_bytes=SMALL_BYTES)
    await eventually(lambda: stage.dead_letters_are(1))
    await eventually(stage.drained)
    assert await counted(stage, orders)
    (dead_letter,) = await stage.dead_letters()
    assert dead_letter.headers["dead_letter_reason"] == "too_large"
    assert dead_letter.headers["dead_letter_attempts"] == 1
    assert f"{SMALL_BYTES} bytes" in str(dead_letter.headers["dead_letter_detail"])
    assert dead_letter.body == sent.body
    assert [line["reason"] for line in logged if line["event"] == "dead_letter"] == ["too_large"]


def test_every_broker_of_ours_has_the_bound_of_the_processes() -> None:
    configuration = (FOLDER / "rabbitmq.conf").read_text()
    assert re.findall(r"^max_message_size = (\d+)$", configuration, re.MULTILINE) == [str(MAX_MESSAGE_BYTES)]
    assert rabbitmq.MAX_MESSAGE_BYTES == MAX_MESSAGE_BYTES


@pytest.mark.parametrize(("given", "bound"), [({}, MAX_MESSAGE_BYTES), ({VARIABLE: "2097152"}, 2_097_152)])
def test_the_local_broker_takes_the_bound_that_processes_have(
    tmp_path: Path, given: dict[str, str], bound: int
) -> None:
    rig = LocalRig(tmp_path / "rig", blueprint=standin_blueprint(), environment=given)
    assert rig.addresses.rabbitmq.max_message_bytes == str(bound)


def test_a_bound_that_is_no_number_is_named(tmp_path: Path) -> None:
    rig = LocalRig(tmp_path / "rig", blueprint=standin_blueprint(), environment={VARIABLE: "1 MiB"})
    with pytest.raises(RigError, match=VARIABLE):
        rig.addresses.rabbitmq.prepare({}, "secret")


def test_the_reasons_are_counted_by_name() -> None:
    assert {"too_large", "headers_too_deep"} < metrics.REASONS
