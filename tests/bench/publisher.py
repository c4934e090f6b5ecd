"""Publishes many facts at once, each confirmed by the broker, without a POST: as an outside publisher may."""

import asyncio
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import cycle, islice
from typing import Any, NamedTuple, cast
from uuid import uuid4

import aiormq
from aiormq import spec
from aiormq.channel import Channel

from events.facts.order import OrderCreated
from events.messaging.envelope import fields_of
from events.service import EXCHANGE
from tests.bench.load import Sent
from tests.bench.orders import Kind

IN_FLIGHT = 500
PUBLISHER_NAME = "webshop"


class Publishable(NamedTuple):
    """A message as AMQP has it; `fields` are its properties by AMQP's names."""

    routing_key: str
    fields: dict[str, Any]
    body: bytes


def orders_created(kinds: Sequence[Kind], count: int) -> Iterator[tuple[str, Publishable]]:
    """So many orders, of these kinds in turn, and the id of each."""
    wire_name = OrderCreated.wire_name
    for kind in islice(cycle(kinds), count):
        order_id = uuid4()
        fields = fields_of(
            fact_id=uuid4(),
            wire_name=wire_name,
            order_id=order_id,
            stated_by=PUBLISHER_NAME,
            stated_at=datetime.now(UTC),
            causation_id=None,
            traceparent=None,
        )
        body = {"order_id": str(order_id), **kind.body()}
        yield str(order_id), Publishable(wire_name, fields, json.dumps(body).encode())


async def publish_orders(broker_url: str, kinds: Sequence[Kind], count: int) -> Sent:
    """Publish so many orders at once: all are due now, and accepted once the broker has confirmed them."""
    orders = list(orders_created(kinds, count))
    sent = Sent()
    sent.due_at = {order_id: sent.begin for order_id, _ in orders}
    await publish(broker_url, (message for _, message in orders), confirmed_at=sent.accepted_at)
    sent.end = time.monotonic()
    return sent


async def publish(
    broker_url: str,
    messages: Iterable[Publishable],
    *,
    exchange: str = EXCHANGE,
    confirmed_at: list[float] | None = None,
) -> None:
    """Returns once all are confirmed; when each was is added to `confirmed_at`.

    Raises what aiormq raises for the first that the broker does not take.
    """
    connection = aiormq.Connection(broker_url)
    await connection.connect()
    left = iter(messages)

    async def publish_in_turn(channel: Channel) -> None:
        for message in left:
            named = {
                "message_type" if name == "type" else name: value for name, value in message.fields.items()
            }
            await channel.basic_publish(
                message.body,
                exchange=exchange,
                routing_key=message.routing_key,
                properties=spec.Basic.Properties(**named),
                mandatory=True,
                wait=False,
            )
            if confirmed_at is not None:
                confirmed_at.append(time.monotonic())

    try:
        channel = cast(Channel, await connection.channel(on_return_raises=True))
        async with asyncio.TaskGroup() as group:
            for _ in range(IN_FLIGHT):
                group.create_task(publish_in_turn(channel))
    finally:
        await connection.close()
