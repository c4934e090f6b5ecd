"""An order of a publisher whose name is not UTF-8, in the running system: redriven as any other."""

from typing import Any
from uuid import UUID, uuid4

from events.messaging.topology import PUBLISHER
from events.service import EXCHANGE
from tests import raw_amqp
from tests.system.stage import System, until
from tests.system.test_reused_ids import order_created


async def publish_from(system: System, app_id: bytes, order_id: UUID, sku: str) -> None:
    order = order_created(order_id, sku)
    properties = raw_amqp.properties(
        message_id=raw_amqp.short((order.message_id or "").encode()),
        message_type=raw_amqp.short((order.type or "").encode()),
        app_id=raw_amqp.short(app_id),
    )
    async with system.channel_as(PUBLISHER) as channel:
        await raw_amqp.publish(channel, EXCHANGE, order.type or "", properties, order.body)


async def timeline(system: System, order_id: UUID) -> list[str]:
    saga: dict[str, Any] = await system.shop.saga(order_id) or {"facts": []}
    return [fact["name"] for fact in saga["facts"]]


async def test_it_is_redriven(system: System) -> None:
    sku = await system.new_sku(2)
    orders = {uuid4(): app_id for app_id in (b"\xff" * 100, b"\0" * 255)}
    await system.pause("payment")  # the rig's tracker has little patience with it
    try:
        for order_id, app_id in orders.items():
            await publish_from(system, app_id, order_id, sku)
        for order_id in orders:
            await until(lambda order_id=order_id: was_redriven(system, order_id))  # type: ignore[misc]
    finally:
        await system.resume("payment")
    await system.settle(dict.fromkeys(orders, "COMPLETED"))
    assert await system.execute("tracker", "SELECT last_error FROM outbox") == []


async def was_redriven(system: System, order_id: UUID) -> bool:
    return "saga.redriven" in await timeline(system, order_id)
