"""The broker lets every user do what its part needs, and nothing more."""

import asyncio
import json
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, get_args
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import aio_pika
import pytest
from aio_pika import Message
from aio_pika.abc import AbstractChannel, AbstractQueue
from aio_pika.exceptions import AMQPError
from aiormq.exceptions import ChannelAccessRefused, ChannelPreconditionFailed

from events.facts import published_facts
from events.messaging.definitions import definitions, user_names
from events.messaging.envelope import fields_of
from events.messaging.topology import (
    ADMIN,
    PUBLISHER,
    RETRY_DELAYS_SECONDS,
    TRACKER,
    declare,
    earlier_dead_letter_queue_arguments,
    queues,
    retry_exchange,
)
from events.service import (
    DEAD_LETTER_EXCHANGE,
    EXCHANGE,
    PARKED_EXCHANGE,
    PARKED_QUEUE,
    REDRIVE_EXCHANGE,
    STREAM,
    Service,
)
from fulfillment_svc.service import SERVICE as FULFILLMENT
from inventory_svc.service import SERVICE as INVENTORY
from notification_svc.service import SERVICE as NOTIFICATION
from order_svc.service import SERVICE as ORDER
from payment_svc.service import SERVICE as PAYMENT
from tests.runtime.eventually import eventually
from tests.servers import Servers

Attempt = Literal["declare", "delete", "bind", "purge", "default exchange"]
SERVICES = [ORDER, INVENTORY, PAYMENT, FULFILLMENT, NOTIFICATION]
OWNERS = {service.name for service in SERVICES} | {"saga"}
WIRE_NAMES = sorted(wire for wire, fact in published_facts().items() if fact.owner in OWNERS)


@dataclass(frozen=True)
class Broker:
    """A vhost that learned its topology from the definitions."""

    admin_url: str
    passwords: dict[str, str]

    @asynccontextmanager
    async def channel(self, user: str) -> AsyncIterator[AbstractChannel]:
        """A channel of one user, who is told at once when a publish is refused or goes nowhere."""
        parts = urlsplit(self.admin_url)
        address = parts.netloc.rpartition("@")[2]
        url = urlunsplit(parts._replace(netloc=f"{user}:{self.passwords[user]}@{address}"))
        async with await aio_pika.connect(url) as connection:
            yield await connection.channel(on_return_raises=True)

    async def publish(self, user: str, routing_key: str, exchange: str = EXCHANGE) -> None:
        """Publish as a user. Raises ChannelAccessRefused when that is not allowed."""
        async with self.channel(user) as channel:
            await publish(channel, routing_key, exchange)

    async def may_publish(self, user: str, routing_key: str, exchange: str = EXCHANGE) -> bool:
        try:
            await self.publish(user, routing_key, exchange)
        except ChannelAccessRefused:
            return False
        return True


async def publish(channel: AbstractChannel, routing_key: str, exchange: str = EXCHANGE) -> None:
    order_id = uuid4()
    message = Message(
        json.dumps({"order_id": str(order_id)}).encode(),
        **fields_of(
            fact_id=uuid4(),
            wire_name=routing_key,
            order_id=order_id,
            stated_by="tester",
            stated_at=datetime.now(UTC),
            causation_id=None,
            traceparent=None,
        ),
    )
    where = await channel.get_exchange(exchange, ensure=False) if exchange else channel.default_exchange
    await where.publish(message, routing_key)


@pytest.fixture(scope="module")
async def broker(servers: Servers) -> Broker:
    admin_url = await asyncio.to_thread(servers.new_vhost)
    passwords = {name: uuid4().hex for name in user_names(SERVICES)}
    passwords[ADMIN] = urlsplit(servers.rabbitmq_url).password or ""
    vhost = urlsplit(admin_url).path.removeprefix("/")
    await asyncio.to_thread(servers.import_definitions, definitions(SERVICES, passwords, vhost))
    return Broker(admin_url, passwords)


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
async def test_a_service_publishes_its_own_facts_and_no_others(broker: Broker, service: Service) -> None:
    may = {wire: await broker.may_publish(service.name, wire) for wire in WIRE_NAMES}
    assert may == {wire: wire.startswith(f"{service.name}.") for wire in WIRE_NAMES}


async def test_inventory_cannot_say_that_a_payment_was_captured(broker: Broker) -> None:
    with pytest.raises(ChannelAccessRefused):
        await broker.publish("inventory", "payment.captured.v1")
    with pytest.raises(ChannelAccessRefused):
        await broker.publish("inventory", "inventoryx.stock_reserved.v1")


async def test_an_outside_publisher_creates_orders_and_nothing_else(broker: Broker) -> None:
    may = {wire: await broker.may_publish(PUBLISHER, wire) for wire in [*WIRE_NAMES, "order.created.v3"]}
    assert {wire for wire, allowed in may.items() if allowed} == {
        "order.created.v1",
        "order.created.v2",
        "order.created.v3",  # whose version the services will not know: dead letters, with the reason
    }
    assert not await reads(broker, PUBLISHER, STREAM)
    with pytest.raises(ChannelAccessRefused):
        await broker.publish(PUBLISHER, "inventory", DEAD_LETTER_EXCHANGE)


async def test_the_tracker_publishes_nothing_but_about_sagas(broker: Broker) -> None:
    may = {wire: await broker.may_publish(TRACKER, wire) for wire in WIRE_NAMES}
    assert {wire for wire, allowed in may.items() if allowed} == {
        wire for wire in WIRE_NAMES if wire.startswith("saga.")
    }
    assert {"saga.timed_out.v2", "saga.settled.v1"} < may.keys()
    with pytest.raises(ChannelAccessRefused):
        await broker.publish(TRACKER, "payment.captured.v1")


async def test_a_service_has_its_own_messages_come_back_and_nobody_elses(broker: Broker) -> None:
    users = [*(service.name for service in SERVICES), TRACKER, PUBLISHER]
    for exchange in (retry_exchange(attempt + 1) for attempt in range(len(RETRY_DELAYS_SECONDS))):
        for user in users:
            may = [key for key in [*users, "#", ""] if await broker.may_publish(user, key, exchange)]
            assert may == [service.name for service in SERVICES if service.name == user], (user, exchange)


async def test_only_the_tracker_puts_messages_into_a_services_queue(broker: Broker) -> None:
    for user in [*(service.name for service in SERVICES), PUBLISHER]:
        for service in SERVICES:
            with pytest.raises(ChannelAccessRefused):
                await broker.publish(user, service.name, REDRIVE_EXCHANGE)
    async with broker.channel(ADMIN) as channel:
        queues = [await channel.get_queue(service.queue, ensure=False) for service in SERVICES]
        for queue in queues:
            await queue.purge()
        for service in SERVICES:
            await broker.publish(TRACKER, service.name, REDRIVE_EXCHANGE)
            assert [queue.name for queue in queues if await was_redriven(queue)] == [service.queue]


async def was_redriven(queue: AbstractQueue) -> bool:
    """Whether the tracker put something there; what it finds is gone then."""
    found = False
    while (message := await queue.get(no_ack=True, fail=False)) is not None:
        # What comes back from a retry queue may be there too, of other tests.
        found = found or (message.exchange == REDRIVE_EXCHANGE and "x-death" not in message.headers)
    return found


async def reads(broker: Broker, user: str, queue: str) -> bool:
    async with broker.channel(user) as channel:
        await channel.set_qos(1)

        async def ignore(_: Any) -> None:
            """It is only asked whether it may."""

        try:
            await (await channel.get_queue(queue, ensure=False)).consume(ignore)
        except ChannelAccessRefused:
            return False
        return True


async def test_who_reads_which_queue(broker: Broker) -> None:
    retries = [retry_exchange(attempt + 1) for attempt in range(len(RETRY_DELAYS_SECONDS))]
    dead = [*(service.dead_letter_queue for service in SERVICES), PARKED_QUEUE]
    names = [STREAM, *retries, *(service.queue for service in SERVICES), *dead]
    assert sorted(names) == sorted(queues(SERVICES))
    for service in SERVICES:
        assert [name for name in names if await reads(broker, service.name, name)] == [service.queue]
    assert [name for name in names if await reads(broker, TRACKER, name)] == [STREAM, *dead]


async def test_nobody_but_the_broker_parks_a_letter(broker: Broker) -> None:
    for user in [*(service.name for service in SERVICES), TRACKER, PUBLISHER]:
        with pytest.raises(ChannelAccessRefused):
            await broker.publish(user, "payment", PARKED_EXCHANGE)


async def test_nobody_changes_the_topology_or_goes_around_it(broker: Broker) -> None:
    for user in [*(service.name for service in SERVICES), TRACKER, PUBLISHER]:
        queue = f"{user}.facts" if user not in (TRACKER, PUBLISHER) else ORDER.queue
        for attempt in get_args(Attempt):
            async with broker.channel(user) as channel:
                with pytest.raises(AMQPError) as refused:
                    await _attempt(channel, attempt, queue)
            if not (attempt == "purge" and queue == f"{user}.facts"):
                assert isinstance(refused.value, ChannelAccessRefused), (user, attempt)


async def _attempt(channel: AbstractChannel, attempt: Attempt, queue: str) -> None:
    match attempt:
        case "declare":
            await channel.declare_queue("mine")
        case "delete":
            await channel.queue_delete(queue)
        case "bind":
            await (await channel.get_queue(queue, ensure=False)).bind(EXCHANGE, "payment.#")
        case "purge":
            await (await channel.get_queue(queue, ensure=False)).purge()
            # A service may: the queue is its own to read.
            raise AMQPError
        case "default exchange":
            await publish(channel, queue, exchange="")


async def test_declaring_finds_what_the_definitions_made(broker: Broker) -> None:
    """Both ways to set a broker up agree to the last argument, or this raises."""
    await declare(SERVICES, broker.admin_url)


def test_no_limit_of_a_queue_drops_a_message() -> None:
    """But for the stream, which keeps the last so many bytes of what all have, or had, in queues."""
    for name, arguments in queues(SERVICES).items():
        if name == STREAM:
            continue
        assert arguments["x-overflow"] == "reject-publish", name
        # Quorum queues have a limit of deliveries from others than us, and any may be given a time to live.
        kept = arguments.get("x-dead-letter-strategy") == "at-least-once"
        assert (kept and "x-dead-letter-exchange" in arguments) or name == PARKED_QUEUE, name
    # Nothing makes it let go of a message: the broker drops what it would dead-letter in a circle.
    assert set(queues(SERVICES)[PARKED_QUEUE]) == {"x-queue-type", "x-max-length", "x-overflow"}
    assert queues(SERVICES)[PARKED_QUEUE]["x-queue-type"] == "classic"


@pytest.fixture
async def earlier_url(servers: Servers) -> str:
    """A vhost where an earlier release declared payment's dead-letter queue, as it could."""
    url = await asyncio.to_thread(servers.new_vhost)
    async with await aio_pika.connect(url) as connection, connection.channel() as channel:
        arguments = earlier_dead_letter_queue_arguments()
        await channel.declare_queue(PAYMENT.dead_letter_queue, durable=True, arguments=arguments)
    return url


async def test_definitions_park_the_letters_of_a_queue_of_an_earlier_release(
    servers: Servers, earlier_url: str
) -> None:
    parts = urlsplit(earlier_url)
    passwords = {name: uuid4().hex for name in user_names([PAYMENT])} | {ADMIN: parts.password or ""}
    imported = definitions([PAYMENT], passwords, parts.path.removeprefix("/"))
    await asyncio.to_thread(servers.import_definitions, imported)
    async with await aio_pika.connect(earlier_url) as connection, connection.channel() as channel:
        exchange = await channel.get_exchange(DEAD_LETTER_EXCHANGE, ensure=False)
        # As if it had been delivered too often: it cannot stay in that queue.
        await exchange.publish(Message(b"{}", expiration=0.001), PAYMENT.name)
        queue = await channel.get_queue(PARKED_QUEUE, ensure=False)
        parked = await eventually(lambda: queue.get(fail=False), why="it is parked")
        assert parked is not None
        assert parked.routing_key == PAYMENT.name


async def test_declaring_leaves_a_queue_of_an_earlier_release_and_says_what_it_needs(
    earlier_url: str, logged: list[MutableMapping[str, Any]]
) -> None:
    await declare([PAYMENT], earlier_url)
    (warned,) = [line for line in logged if line["log_level"] == "warning"]
    assert warned["queue"] == PAYMENT.dead_letter_queue
    assert warned["policy"]["dead-letter-exchange"] == PARKED_EXCHANGE
    async with await aio_pika.connect(earlier_url) as connection, connection.channel() as channel:
        for name in queues([PAYMENT]):
            await channel.declare_queue(name, passive=True)


async def test_declaring_takes_no_queue_that_is_anything_else(servers: Servers) -> None:
    for name in (PAYMENT.dead_letter_queue, PAYMENT.queue):
        url = await asyncio.to_thread(servers.new_vhost)
        async with await aio_pika.connect(url) as connection, connection.channel() as channel:
            await channel.declare_queue(name, durable=True)
        with pytest.raises(ChannelPreconditionFailed):
            await declare([PAYMENT], url)


async def test_every_fact_reaches_whoever_subscribes_to_it(servers: Servers) -> None:
    url = await asyncio.to_thread(servers.new_vhost)
    await declare(SERVICES, url)
    expected = {service.queue: 0 for service in SERVICES}
    for service in SERVICES:
        stems = {fact.wire_name.rpartition(".")[0] for fact in service.subscribes_to}
        expected[service.queue] = len([wire for wire in WIRE_NAMES if wire.rpartition(".")[0] in stems])
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel(on_return_raises=True)
        for wire in WIRE_NAMES:
            await publish(channel, wire)

        async def arrived() -> bool:
            queues = [await channel.declare_queue(name, passive=True) for name in expected]
            return {queue.name: queue.declaration_result.message_count for queue in queues} == expected

        await eventually(arrived)
