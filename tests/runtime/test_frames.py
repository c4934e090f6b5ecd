"""The frames of a published fact are those that pamqp writes, and what is delivered is what pamqp reads."""

import asyncio
from datetime import UTC, datetime
from typing import Any, cast
from uuid import uuid4

import pytest
from aiormq.abc import AbstractChannel
from hypothesis import given
from hypothesis import strategies as st
from pamqp import frame
from pamqp.body import ContentBody
from pamqp.commands import Basic
from pamqp.frame import FrameTypes
from pamqp.header import ContentHeader

from events.messaging.deliveries import Delivery, DeliveryReader
from events.messaging.envelope import fields_of
from events.messaging.frames import publish_frames

CHANNEL = 3
MAX_BODY_BYTES = 50
_names = st.text(max_size=40).filter(lambda text: len(text.encode()) < 200)
_instants = st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


@st.composite
def _fields(draw: st.DrawFn) -> dict[str, Any]:
    user = draw(st.sampled_from([{}, {"user_id": "order"}]))
    return user | fields_of(
        fact_id=draw(st.uuids()),
        wire_name=draw(st.sampled_from(["order.created.v2", "inventory.stock_reserved.v1"])),
        order_id=draw(st.uuids()),
        stated_by=draw(st.sampled_from(["order", "inventory"])),
        stated_at=draw(_instants),
        causation_id=draw(st.none() | st.uuids()),
        traceparent=draw(st.none() | _names),
    )


def _properties(fields: dict[str, Any]) -> Basic.Properties:
    return Basic.Properties(
        **{"message_type" if name == "type" else name: value for name, value in fields.items()}
    )


def _unsorted_headers(fields: dict[str, Any]) -> dict[str, Any]:
    """pamqp sorts them."""
    return fields | {"headers": dict(sorted(fields["headers"].items()))}


@given(_fields(), st.binary(max_size=200), _names)
def test_a_fact_is_published_as_pamqp_would(fields: dict[str, Any], body: bytes, routing_key: str) -> None:
    expected: list[FrameTypes] = [
        Basic.Publish(exchange="facts", routing_key=routing_key, mandatory=True),
        ContentHeader(properties=_properties(fields), body_size=len(body)),
        *(ContentBody(body[begin : begin + MAX_BODY_BYTES]) for begin in range(0, len(body), MAX_BODY_BYTES)),
    ]
    assert publish_frames(
        CHANNEL, "facts", routing_key, _unsorted_headers(fields), body, MAX_BODY_BYTES
    ) == b"".join(frame.marshal(each, CHANNEL) for each in expected)


def test_what_is_too_long_for_amqp_is_refused() -> None:
    fields = fields_of(
        fact_id=uuid4(),
        wire_name="order.created.v2",
        order_id=uuid4(),
        stated_by="order",
        stated_at=datetime.now(UTC),
        causation_id=None,
        traceparent=None,
    )
    with pytest.raises(ValueError, match="longer than 255 bytes"):
        publish_frames(CHANNEL, "facts", "é" * 128, fields, b"", MAX_BODY_BYTES)


def _delivered(fields: dict[str, Any], body: bytes, routing_key: str) -> bytes:
    frames: list[FrameTypes] = [
        Basic.Deliver("tag", 17, True, "facts", routing_key),
        ContentHeader(properties=_properties(fields), body_size=len(body)),
        *(ContentBody(body[begin : begin + MAX_BODY_BYTES]) for begin in range(0, len(body), MAX_BODY_BYTES)),
    ]
    return b"".join(frame.marshal(each, CHANNEL) for each in frames)


async def _read(pieces: list[bytes]) -> tuple[list[Delivery], bytes]:
    """What is taken off these bytes, and what is left for aiormq."""
    taken: list[Delivery] = []
    reader = DeliveryReader({CHANNEL: (cast(AbstractChannel, None), taken.append)})
    for piece in pieces:
        reader.feed_data(piece)
    reader.feed_eof()
    return taken, await reader.read()


@given(_fields(), st.binary(max_size=200), _names, st.integers(1, 400))
def test_a_delivery_is_read_as_pamqp_would_however_it_is_cut(
    fields: dict[str, Any], body: bytes, routing_key: str, size: int
) -> None:
    confirm = frame.marshal(Basic.QosOk(), CHANNEL)
    data = _delivered(fields, body, routing_key) + confirm
    taken, left = asyncio.run(_read([data[begin : begin + size] for begin in range(0, len(data), size)]))
    (delivery,) = taken
    assert (delivery.delivery_tag, delivery.redelivered) == (17, True)
    assert (delivery.exchange, delivery.routing_key, delivery.body) == ("facts", routing_key, body)
    read = ("message_id", "type", "app_id", "correlation_id", "headers")
    assert [getattr(delivery, name) for name in read] == [fields[name] for name in read]
    assert delivery.user_id == fields.get("user_id")
    assert delivery.timestamp == fields["timestamp"].replace(microsecond=0)
    whole = delivery.whole()
    assert [getattr(whole, name) for name in (*read, "content_type")] == [
        fields[name] for name in (*read, "content_type")
    ]
    assert left.endswith(confirm)


def test_other_channels_and_frames_are_left_to_aiormq() -> None:
    data = frame.marshal(Basic.QosOk(), CHANNEL) + frame.marshal(Basic.QosOk(), CHANNEL + 1)
    assert asyncio.run(_read([data])) == ([], data)


@given(st.lists(st.sampled_from(["content_type", "content_encoding", "priority", "reply_to", "expiration"])))
def test_properties_that_nobody_reads_are_passed_over(others: list[str]) -> None:
    given_properties: dict[str, Any] = {name: 7 if name == "priority" else "x" * 9 for name in others}
    header = ContentHeader(
        properties=Basic.Properties(message_id="m", app_id="a", user_id="u", **given_properties), body_size=1
    )
    frames: list[FrameTypes] = [Basic.Deliver("tag", 1, False, "", "q"), header, ContentBody(b"!")]
    ((delivery,), _) = asyncio.run(_read([b"".join(frame.marshal(each, CHANNEL) for each in frames)]))
    assert (delivery.message_id, delivery.app_id, delivery.body) == ("m", "a", b"!")
