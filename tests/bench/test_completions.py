"""Ends of sagas are noted as the broker tells of them, and nothing is left on it afterwards."""

import asyncio
from datetime import UTC, datetime
from uuid import UUID, uuid4

import aio_pika
import aiormq
import pytest
from aiormq.exceptions import PublishError

from events.facts.fulfillment import ShipmentDispatched
from events.facts.inventory import StockReserved
from events.facts.notification import CustomerNotified
from events.facts.order import OrderCancelled
from events.messaging.envelope import fields_of
from events.service import EXCHANGE
from tests.bench.completions import watch
from tests.bench.publisher import Publishable, publish
from tests.runtime.eventually import eventually
from tests.servers import Servers

RESERVED, NOTIFIED = StockReserved.wire_name, CustomerNotified.wire_name
MANY = 1_000
GONE, CANCELLED = ShipmentDispatched.wire_name, OrderCancelled.wire_name


async def broker_with_exchange(servers: Servers) -> str:
    url = servers.new_vhost()
    async with await aio_pika.connect(url) as connection, connection.channel() as channel:
        await channel.declare_exchange(EXCHANGE, aio_pika.ExchangeType.TOPIC, durable=True)
    return url


def fact(wire_name: str, order_id: UUID) -> Publishable:
    fields = fields_of(
        fact_id=uuid4(),
        wire_name=wire_name,
        order_id=order_id,
        stated_by="test",
        stated_at=datetime.now(UTC),
        causation_id=None,
        traceparent=None,
    )
    return Publishable(wire_name, fields, b"{}")


@pytest.mark.parametrize("lasting", [False, True])
async def test_an_order_has_ended_once_its_customer_is_notified_and_its_goods_are_gone(
    servers: Servers, lasting: bool
) -> None:
    url = await broker_with_exchange(servers)
    sold, cancelled, under_way = uuid4(), uuid4(), uuid4()
    facts = [
        fact(GONE, sold),
        fact(NOTIFIED, sold),
        fact(CANCELLED, cancelled),
        fact(NOTIFIED, cancelled),
        fact(NOTIFIED, cancelled),
        fact(GONE, under_way),
        fact(RESERVED, under_way),
    ]
    async with watch(url, also=[RESERVED], lasting=lasting) as completions:
        await publish(url, facts)
        await eventually(lambda: completions.received_at.get(RESERVED))
        assert completions.ended_at.keys() == {str(sold), str(cancelled)}
        assert completions.cancelled == {str(cancelled)}
    with pytest.raises(ExceptionGroup) as failed:
        await publish(url, facts[:1])
    assert failed.group_contains(PublishError)


async def test_it_watches_again_after_the_connection_was_lost(servers: Servers) -> None:
    url = await broker_with_exchange(servers)
    first, second = uuid4(), uuid4()
    async with watch(url, lasting=True) as completions:
        await publish(url, [fact(GONE, first), fact(NOTIFIED, first)])
        await eventually(lambda: str(first) in completions.ended_at)
        await cut(completions.connection)
        await publish(url, [fact(CANCELLED, second), fact(NOTIFIED, second)])
        await eventually(lambda: str(second) in completions.ended_at)


async def test_what_was_on_its_way_when_the_connection_was_lost_comes_again(servers: Servers) -> None:
    url = await broker_with_exchange(servers)
    orders = [uuid4() for _ in range(MANY)]
    async with watch(url, lasting=True) as completions:
        publishing = asyncio.create_task(
            publish(url, [fact(name, order) for order in orders for name in (GONE, NOTIFIED)])
        )
        while not publishing.done():
            received = len(completions.ended_at)
            await eventually(lambda: len(completions.ended_at) > received or publishing.done())  # noqa: B023
            await cut(completions.connection)
        await publishing
        await eventually(lambda: completions.ended_at.keys() == set(map(str, orders)))


async def cut(connection: aiormq.abc.AbstractConnection | None) -> None:
    assert connection is not None
    await connection.close()
