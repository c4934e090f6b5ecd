"""Deliveries are taken off the bytes as they are, however these are cut; everything else passes through."""

from datetime import UTC, datetime
from typing import cast

import pytest
from aiormq.abc import AbstractChannel
from pamqp import frame
from pamqp.base import Frame
from pamqp.body import ContentBody
from pamqp.commands import Basic, Channel
from pamqp.common import FieldTable
from pamqp.header import ContentHeader
from pamqp.heartbeat import Heartbeat

from events.messaging.deliveries import Delivery, DeliveryReader

# Only carried along.
CHANNEL = cast(AbstractChannel, None)
HEADERS: FieldTable = {
    "order_id": "7",
    "x-stream-offset": 2**40,
    "nested": {"a": [1, "b", None]},
    "flag": True,
    "empty": "",
}
PROPERTIES = Basic.Properties(
    content_type="application/json",
    content_encoding="utf-8",
    headers=HEADERS,
    delivery_mode=2,
    priority=3,
    correlation_id="c",
    reply_to="r",
    expiration="60000",
    message_id="é",
    timestamp=datetime(2026, 11, 21, tzinfo=UTC),
    message_type="order.created.v2",
    user_id="u",
    app_id="order",
)


def delivered(tag: int, *bodies: bytes, properties: Basic.Properties = PROPERTIES, channel: int = 1) -> bytes:
    """The frames of a delivery, its body in parts."""
    header = ContentHeader(0, sum(map(len, bodies)), properties)
    frames: list[Frame | ContentHeader | ContentBody] = [
        Basic.Deliver("ctag", tag, False, "facts", "order.created.v2"),
        header,
        *map(ContentBody, bodies),
    ]
    return b"".join(frame.marshal(part, channel) for part in frames)


async def read(data: bytes, cut_every: int) -> tuple[list[Delivery], bytes]:
    """What is delivered on channel 1, and what is passed on, when the bytes come in pieces."""
    received: list[Delivery] = []
    reader = DeliveryReader({1: (CHANNEL, received.append)})
    for begin in range(0, len(data), cut_every):
        reader.feed_data(data[begin : begin + cut_every])
    reader.feed_eof()
    return received, await reader.read()


@pytest.mark.parametrize("cut_every", [1, 7, 100, 10_000])
async def test_every_delivery_is_read_and_nothing_else(cut_every: int) -> None:
    ok, alive = frame.marshal(Basic.QosOk(), 1), frame.marshal(Heartbeat(), 0)
    foreign = delivered(9, b"{}", channel=2)
    data = alive + delivered(1, b'{"a": 1}') + ok + delivered(2, b'{"a":', b" 2}") + foreign + delivered(3)
    received, passed_on = await read(data, cut_every)
    assert [(one.delivery_tag, one.body) for one in received] == [
        (1, b'{"a": 1}'),
        (2, b'{"a": 2}'),
        (3, b""),
    ]
    assert passed_on.replace(alive, b"") == ok + foreign
    for one in received:
        assert (one.message_id, one.type, one.app_id) == ("é", "order.created.v2", "order")
        assert (one.routing_key, one.timestamp) == ("order.created.v2", PROPERTIES.timestamp)
        assert one.headers == HEADERS


async def test_what_has_no_properties_has_none() -> None:
    (one,), _ = await read(delivered(1, b"?", properties=Basic.Properties()), 10_000)
    header = ContentHeader(0, 1, Basic.Properties()).marshal()
    assert one == Delivery(CHANNEL, 1, False, "facts", "order.created.v2", b"?", header)


async def test_a_channel_that_closes_passes_through() -> None:
    closed = frame.marshal(Channel.Close(404, "gone", 60, 20), 1)
    received, passed_on = await read(delivered(1, b"{}") + closed, 10_000)
    assert len(received) == 1
    assert passed_on.endswith(closed)


async def test_what_is_no_amqp_is_for_aiormq_to_refuse() -> None:
    refusal = b"AMQP\x00\x00\x09\x01"
    assert await read(refusal, 10_000) == ([], refusal)


async def test_deliveries_alone_are_a_sign_of_life() -> None:
    """The broker sends no heartbeats then."""
    _, passed_on = await read(delivered(1, b"{}"), 10_000)
    assert frame.unmarshal(passed_on)[2].name == Heartbeat().name
