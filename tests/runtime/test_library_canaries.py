"""What is leaned on of libraries beyond what they promise. A test that fails is named after what has changed.

Two files do so: events/messaging/lenient_pamqp.py, and events/messaging/subscriber.py, which is built on the
base of FastStream's own subscribers. Of FastStream beside that, what is documented and matters most.
"""

import asyncio
import struct
import tomllib
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec, module_from_spec
from typing import Any
from uuid import uuid4

import aio_pika
import pytest
from aio_pika import IncomingMessage
from faststream._internal.endpoint.subscriber import SubscriberUsecase
from faststream.message import StreamMessage
from faststream.middlewares import AckPolicy
from faststream.rabbit import Channel, RabbitBroker, RabbitExchange, RabbitQueue
from faststream.rabbit.schemas import QueueType
from faststream.rabbit.subscriber.usecase import RabbitSubscriber
from faststream.specification import AsyncAPI
from packaging.requirements import Requirement
from pamqp import decode, frame
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from compose.local.state import CHECKOUT
from events.messaging import lenient_pamqp
from events.messaging.subscriber import (
    Arrived,
    Delivery,
    DirectSubscriber,
    Receive,
    subscribe_directly,
    whole,
)
from tests import raw_amqp
from tests.runtime.eventually import eventually
from tests.runtime.stage import Stage, message
from tests.runtime.toy.facts import Bumped
from tests.runtime.toy.service import TOY

BEFORE_2106 = 2**32 - 1
REPLACED: dict[str, Callable[[bytes], Any]] = {
    "shortstr": lenient_pamqp.short_string,
    "timestamp": lenient_pamqp.timestamp,
    "table": lenient_pamqp.table,
}


@pytest.mark.parametrize("library", ["pamqp", "faststream"])
def test_the_library_is_pinned_to_the_release_that_this_was_written_for(library: str) -> None:
    content = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    (wanted,) = (one for one in map(Requirement, content["project"]["dependencies"]) if one.name == library)
    assert [one.operator for one in wanted.specifier] == ["~="]
    assert wanted.specifier.contains(version(library))


# ---- pamqp


def test_pamqp_looks_its_decoders_up_by_these_names() -> None:
    assert {name: decode.METHODS[name] for name in REPLACED} == REPLACED
    # As it is before anything of it is replaced.
    spec = find_spec(decode.__name__)
    assert spec is not None
    assert spec.loader is not None
    unchanged = module_from_spec(spec)
    spec.loader.exec_module(unchanged)
    assert REPLACED.keys() <= unchanged.METHODS.keys()


def test_pamqp_types_the_properties_by_these_names() -> None:
    types = {name: Basic.Properties.amqp_type(name) for name in Basic.Properties.attributes()}
    assert types == {
        **dict.fromkeys(types, "shortstr"),
        "headers": "table",
        "timestamp": "timestamp",
        "delivery_mode": "octet",
        "priority": "octet",
    }


def unmarshalled(properties: raw_amqp.RawProperties) -> Any:
    """As aiormq has them of a frame that arrives."""
    header = frame.marshal(ContentHeader(body_size=2, properties=properties), 1)
    consumed, channel, found = frame.unmarshal(header)
    assert (consumed, channel) == (len(header), 1)
    assert isinstance(found, ContentHeader)
    return found.properties


def test_pamqp_reads_properties_by_the_decoders_that_replace_its_own() -> None:
    lenient_pamqp.be_lenient()
    found = unmarshalled(
        raw_amqp.properties(
            [(b"\xff", raw_amqp.long_string(b"\xff")), (b"deep", raw_amqp.deep(5_000, "FA"))],
            content_type=raw_amqp.short(b"\xff" * 255),
            priority=b"\x09",
            timestamp=struct.pack(">Q", 2**64 - 1),
            app_id=raw_amqp.short(b"behind all of these"),
        )
    )
    assert found.content_type == "\ufffd" * 85
    assert isinstance(found.headers, lenient_pamqp.CutHeaders)
    assert found.headers["\ufffd"] == bytearray(b"\xff")
    assert (found.priority, found.timestamp, found.app_id) == (9, None, "behind all of these")


def test_pamqp_still_reads_a_value_of_a_header_by_its_letter() -> None:
    values = [b"t\1", b"b\xff", b"B\xff", b"s\xff\xff", b"u\xff\xff", b"I" + b"\xff" * 4, b"i" + b"\xff" * 4]
    values += [b"l" + b"\xff" * 8, b"f\0\0\0\0", b"d" + b"\0" * 8, b"D\2\0\0\0\7", b"V"]
    values += [raw_amqp.long_string(b"\xff", b"x"), b"T" + struct.pack(">Q", BEFORE_2106)]
    for value in values:
        consumed, read = decode.embedded_value(value)
        assert (consumed, type(read)) == (len(value), type(lenient_of(value))), value


def lenient_of(value: bytes) -> Any:
    return lenient_pamqp.table(raw_amqp.table([(b"h", value)]))[1]["h"]


def test_aio_pika_takes_any_delivery_mode() -> None:
    lenient_pamqp.be_lenient()
    assert [aio_pika.DeliveryMode(mode) for mode in (0, 1, 2, 3, 255)] == [2, 1, 2, 2, 2]


def test_aio_pika_keeps_headers_as_the_object_that_was_read() -> None:
    headers = lenient_pamqp.CutHeaders({"deep": bytearray(b"x")})
    assert aio_pika.Message(b"", headers=headers).headers is headers


# ---- FastStream


def subscriber_of(broker: RabbitBroker) -> RabbitSubscriber:
    queue = RabbitQueue(TOY.queue, queue_type=QueueType.QUORUM, durable=True, declare=False)
    exchange = RabbitExchange("facts", declare=False)
    channel = Channel(prefetch_count=10, publisher_confirms=False)
    return broker.subscriber(queue, exchange, channel=channel, ack_policy=AckPolicy.MANUAL, no_reply=True)


def five_messages() -> list[aio_pika.Message]:
    return [message(Bumped(order_id=number), number) for number in (uuid4() for _ in range(5))]


async def raw(message: StreamMessage[IncomingMessage]) -> IncomingMessage:
    return message.raw_message


async def test_faststream_hands_on_what_arrives_in_order_and_unacknowledged(stage: Stage) -> None:
    sent = five_messages()
    await stage.publish(*sent)
    await eventually(lambda: stage.waiting_in_queue_is(len(sent)))
    arrived: list[IncomingMessage] = []
    broker = RabbitBroker(stage.broker_url, logger=None, apply_types=False, decoder=raw)
    subscriber = subscriber_of(broker)

    @subscriber
    async def receive(message: Any) -> None:
        arrived.append(message)

    await broker.start()
    try:
        await eventually(lambda: len(arrived) == len(sent))
        assert [one.message_id for one in arrived] == [one.message_id for one in sent]
        assert not any(one.processed for one in arrived)
        await arrived[-1].ack(multiple=True)
    finally:
        await broker.stop()
    await eventually(lambda: stage.waiting_in_queue_is(0))


async def test_faststream_gives_back_what_was_not_acknowledged(stage: Stage) -> None:
    """Neither an end of the handler nor an exception out of it acknowledges anything."""
    sent = five_messages()
    broker = RabbitBroker(stage.broker_url, logger=None, apply_types=False, decoder=raw)
    subscriber = subscriber_of(broker)
    received: list[IncomingMessage] = []

    @subscriber
    async def receive(arrived: Any) -> None:
        received.append(arrived)
        raise ArithmeticError("this handler cannot")

    await broker.start()
    try:
        await stage.publish(*sent)
        await eventually(lambda: len(received) == len(sent))
        assert subscriber.running
    finally:
        await broker.stop()
    await eventually(lambda: stage.waiting_in_queue_is(len(sent)))


def test_faststream_starts_the_subscriber_of_our_own_as_it_does_its_own() -> None:
    """What it calls, and that both say the same of themselves."""
    assert {"start", "stop", "consume"} <= vars(RabbitSubscriber).keys() | vars(SubscriberUsecase).keys()
    described = []
    for direct in (False, True):
        broker = RabbitBroker("amqp://nowhere/", logger=None, apply_types=False)
        subscriber = direct_subscriber_of(broker, lambda _: None) if direct else subscriber_of(broker)

        @subscriber
        async def receive(fact: Bumped) -> None:
            """Whatever."""

        assert broker.subscribers == [subscriber]
        described.append(AsyncAPI(broker).to_specification().to_jsonable())
    assert described[0] == described[1]


@pytest.mark.parametrize("traced", [False, True])
async def test_faststream_runs_the_subscriber_of_our_own(stage: Stage, traced: bool) -> None:
    """What arrives is handed on in order, unacknowledged, and nothing any more once it stops."""
    sent = five_messages()
    await stage.publish(*sent)
    await eventually(lambda: stage.waiting_in_queue_is(len(sent)))
    arrived: list[Arrived] = []
    broker = RabbitBroker(stage.broker_url, logger=None, apply_types=False)
    subscriber = direct_subscriber_of(broker, arrived.append, traced=lambda: traced)

    @subscriber
    async def receive(message: Any) -> None:
        raise AssertionError("nobody calls this")

    await broker.start()
    try:
        await eventually(lambda: len(arrived) == len(sent))
        running = subscriber.running
        assert [one.message_id for one in arrived] == [one.message_id for one in sent]
        assert not any(one.processed for one in arrived)
        await arrived[-1].ack(multiple=True)
        await subscriber.stop()
        assert (running, subscriber.running) == (True, False)
        await stage.publish(*five_messages())
        await eventually(lambda: stage.waiting_in_queue_is(len(sent)))
        assert len(arrived) == len(sent)
    finally:
        await broker.stop()


@pytest.mark.parametrize("ends", ["consumer", "channel", "connection"])
async def test_the_subscriber_of_our_own_says_that_it_consumes_no_more(stage: Stage, ends: str) -> None:
    broker = RabbitBroker(stage.broker_url, logger=None, apply_types=False)
    lost = asyncio.Event()
    subscriber = direct_subscriber_of(broker, lambda _: None, on_lost=lost.set)

    @subscriber
    async def receive(message: Any) -> None:
        raise AssertionError("nobody calls this")

    await broker.start()
    try:
        assert not lost.is_set()
        assert subscriber.beneath is not None
        if ends == "consumer":
            await stage.channel.queue_delete(TOY.queue)
        elif ends == "channel":
            # Nothing has this tag: the broker closes the channel for it.
            await subscriber.beneath.basic_ack(1)
        else:
            await subscriber.beneath.connection.close()
        async with asyncio.timeout(10):
            await lost.wait()
    finally:
        await broker.stop()


async def test_the_subscriber_of_our_own_stops_without_a_word(stage: Stage) -> None:
    broker = RabbitBroker(stage.broker_url, logger=None, apply_types=False)
    lost = asyncio.Event()
    subscriber = direct_subscriber_of(broker, lambda _: None, on_lost=lost.set)

    @subscriber
    async def receive(message: Any) -> None:
        raise AssertionError("nobody calls this")

    await broker.start()
    await broker.stop()
    assert not lost.is_set()


async def test_a_delivery_says_what_aio_pika_says_of_it(stage: Stage) -> None:
    """By the same names, and nothing else."""
    broker = RabbitBroker(stage.broker_url, logger=None, apply_types=False)
    arrived: list[Arrived] = []
    subscriber = direct_subscriber_of(broker, arrived.append)

    @subscriber
    async def receive(message: Any) -> None:
        raise AssertionError("nobody calls this")

    await stage.publish(*five_messages())
    await broker.start()
    try:
        await eventually(lambda: len(arrived) == 5)
        for one in arrived:
            assert isinstance(one, Delivery)
            for name in (*(name for name in Delivery.__slots__ if name != "_delivered"), "channel"):
                assert getattr(one, name) == getattr(whole(one), name), name
    finally:
        await broker.stop()


def direct_subscriber_of(
    broker: RabbitBroker,
    receive: Receive,
    *,
    on_lost: Callable[[], None] = lambda: None,
    traced: Callable[[], bool] = lambda: False,
) -> DirectSubscriber:
    queue = RabbitQueue(TOY.queue, queue_type=QueueType.QUORUM, durable=True, declare=False)
    exchange = RabbitExchange("facts", declare=False)
    channel = Channel(prefetch_count=10, publisher_confirms=False)
    return subscribe_directly(broker, queue, exchange, channel, receive, on_lost=on_lost, traced=traced)
