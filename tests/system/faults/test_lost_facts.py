"""A fact that one subscriber never gets, although everybody else does: dropped from its queue, or purged."""

from functools import partial
from typing import Any
from uuid import UUID

import aio_pika
from aio_pika.abc import AbstractIncomingMessage

from compose.demo.shop import Item, Refused
from compose.drills.stage import killed, paused
from events.facts.order import OrderCreated
from events.facts.saga import SagaTimedOut
from events.messaging.topology import TRACKER
from events.service import EXCHANGE, name_of
from payment_svc.service import DEFAULT_APPROVAL_LIMIT_MINOR
from tests.system.faults.verbs import queued
from tests.system.stage import System, until

TOO_MUCH = DEFAULT_APPROVAL_LIMIT_MINOR + 1
LANDING_SECONDS = 90.0


async def drop(system: System, service: str, name: str) -> None:
    """Take the one fact of this name off a service's queue, which nobody may be consuming."""
    async with system.channel_as("admin") as channel:
        queue = await channel.declare_queue(f"{service}.facts", passive=True)
        others: list[AbstractIncomingMessage] = []
        dropped = 0
        while (message := await queue.get(fail=False)) is not None:
            if name_of(message.type or "") == name:
                await message.ack()
                dropped += 1
            else:
                others.append(message)
        for message in others:
            await message.reject(requeue=True)
    assert dropped == 1


async def saga_of(system: System, order_id: UUID, state: str) -> dict[str, Any] | None:
    saga = await system.shop.saga(order_id)
    return saga if saga is not None and saga["state"] == state else None


async def _publish_and_drop(system: System) -> UUID:
    """An outside publisher's order of which order_svc receives nothing but that its shipment is booked."""
    order_id = await system.shop.publish("cust_ada", "tok_ok", Item(await system.new_sku(1), 1, 500))
    await queued(system, "order", 2)
    await drop(system, "order", name_of(OrderCreated))
    return order_id


async def test_an_order_that_its_owner_never_received_completes(system: System) -> None:
    """Once it is order_svc's turn, it is sent the order, too."""
    async with killed(system, "order"):
        order_id = await _publish_and_drop(system)
    await until(partial(saga_of, system, order_id, "COMPLETED"), within_seconds=LANDING_SECONDS)
    await system.settle({order_id: "COMPLETED"})


async def test_an_order_that_its_owner_never_received_can_time_out(system: System) -> None:
    """Then it is withdrawn and undone all the same, and its customer told."""
    async with paused(system, "tracker"):
        async with killed(system, "order"):
            order_id = await _publish_and_drop(system)
        late = SagaTimedOut(order_id=order_id, waiting_for="order.confirmed", customer="cust_ada")
        message = aio_pika.Message(
            late.model_dump_json().encode(),
            message_id=str(order_id),
            type=late.wire_name,
            app_id=TRACKER,
            correlation_id=str(order_id),
        )
        async with system.channel_as(TRACKER) as channel:
            facts = await channel.get_exchange(EXCHANGE, ensure=False)
            await facts.publish(message, late.wire_name, mandatory=True)

        async def is_cancelled() -> bool:
            try:
                return bool((await system.shop.order(order_id))["status"] == "cancelled")
            except Refused:
                return False  # it has yet to know of it

        await until(is_cancelled, within_seconds=LANDING_SECONDS)
    books = await system.settle({order_id: "CANCELLED"}, LANDING_SECONDS)
    notice = books[order_id].notice
    assert (notice.status, notice.ending) == ("notified", "cancelled")


async def test_an_order_that_its_owner_never_received_can_be_cancelled(system: System) -> None:
    """As soon as it has received anything of it; the end is said once it knows whose order it is."""

    async def is_withdrawn() -> bool:
        try:
            return bool((await system.shop.cancel(order_id))["status"] == "withdrawn")
        except Refused as refused:
            if refused.status == 404:
                return False
            raise

    async def is_undone() -> bool:
        try:
            await system.shop.cancel(order_id)
        except Refused as refused:
            return refused.status == 409 and "undone already" in str(refused)
        return False

    async with paused(system, "tracker"):
        async with killed(system, "order"):
            order_id = await _publish_and_drop(system)
        await until(is_withdrawn)
        await until(is_undone)
    await until(partial(saga_of, system, order_id, "CANCELLED"), within_seconds=LANDING_SECONDS)
    await system.settle({order_id: "CANCELLED"}, LANDING_SECONDS)


async def test_what_is_not_sold_is_not_complete(system: System) -> None:
    """Inventory's queue is purged after the confirmation: it is told once more, and then it is sold."""
    sku = await system.new_sku(1)
    order_id = await system.shop.place("cust_ada", "tok_ok", Item(sku, 1, TOO_MUCH))
    await until(partial(saga_of, system, order_id, "AWAITING_APPROVAL"))
    async with killed(system, "inventory"):
        await system.shop.approve(order_id, "a known customer")

        async def only_inventory_is_missing() -> bool:
            saga = await saga_of(system, order_id, "COMPLETING")
            return saga is not None and [wait["service"] for wait in saga["waits"]] == ["inventory"]

        await until(only_inventory_is_missing)
        async with system.channel_as("admin") as channel:
            await (await channel.declare_queue("inventory.facts", passive=True)).purge()
        assert await saga_of(system, order_id, "COMPLETING")
    await until(partial(saga_of, system, order_id, "COMPLETED"), within_seconds=LANDING_SECONDS)
    books = await system.settle({order_id: "COMPLETED"})
    assert books[order_id].reservation.status == "sold"
