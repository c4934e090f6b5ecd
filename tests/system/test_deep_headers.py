"""Headers nested hundreds deep, in the running system: two dead letters, and no service notices otherwise."""

import asyncio
import json
from typing import Any
from uuid import UUID, uuid4

import pytest

from compose.demo.shop import Item
from events.messaging.topology import PUBLISHER
from events.service import EXCHANGE
from tests import raw_amqp
from tests.system.stage import System
from tests.system.test_reused_ids import dead_letters_of, order_created, publish

GOOD_ORDERS = 50
KINDS = [(300, "F"), (500, "F"), (500, "A"), (500, "FA")]


async def publish_deep(
    system: System, order_id: UUID, sku: str, depth: int, kinds: str, *, message_id: str | None = None
) -> None:
    """A valid order, but for one header."""
    good = order_created(order_id, sku, message_id=message_id)
    properties = raw_amqp.properties(
        [(b"deep", raw_amqp.deep(depth, kinds))],
        message_id=raw_amqp.short((good.message_id or "").encode()),
        message_type=raw_amqp.short((good.type or "").encode()),
        app_id=raw_amqp.short(b"webshop"),
    )
    async with system.channel_as(PUBLISHER) as channel:
        await raw_amqp.publish(channel, EXCHANGE, good.type or "", properties, good.body)


async def shown(system: System, dead_letter: dict[str, Any]) -> dict[str, Any]:
    """A dead letter with the message in it."""
    return await system.shop.ask("tracker", "GET", f"/dead-letters/{dead_letter['letter_id']}")


def outages(system: System) -> list[str]:
    """What the processes logged of connections that they lost."""
    found: list[str] = []
    for log in (system.rig.state_dir / "logs").glob("*.log"):
        found += [line for line in log.read_text(errors="replace").splitlines() if "outage_began" in line]
    return found


@pytest.mark.parametrize(("depth", "kinds"), KINDS)
async def test_it_is_two_dead_letters_that_can_be_replayed(system: System, depth: int, kinds: str) -> None:
    sku, order_id = await system.new_sku(GOOD_ORDERS + 1), uuid4()
    before = outages(system)
    good = [uuid4() for _ in range(GOOD_ORDERS)]
    around = [publish(system, order_created(one, sku)) for one in good]
    around.insert(GOOD_ORDERS // 2, publish_deep(system, order_id, sku, depth, kinds))
    await asyncio.gather(*around)
    dead_letters = await dead_letters_of(system, order_id, "headers_too_deep")
    whole = [await shown(system, dead_letter) for dead_letter in dead_letters]
    assert {json.loads(dead_letter["body"])["order_id"] for dead_letter in whole} == {str(order_id)}
    assert all("deep" in dead_letter["headers"] for dead_letter in whole)
    for dead_letter in dead_letters:
        await system.shop.replay(dead_letter["letter_id"], "it is in order otherwise")
    await system.settle(dict.fromkeys([*good, order_id], "COMPLETED"))
    saga = await system.shop.saga(order_id)
    assert saga is not None
    assert [fact["name"] for fact in saga["facts"]].count("order.created") == 1
    assert await system.shop.dead_letters(order_id) == []
    assert outages(system) == before


async def test_it_can_be_discarded(system: System) -> None:
    """One without an id that is good: RabbitMQ 3.10 keeps no nested headers in a stream, so that the tracker
    would take it for an order.
    """
    sku, order_id = await system.new_sku(2), uuid4()
    before = outages(system)
    await publish_deep(system, order_id, sku, 500, "F", message_id="order-8")
    dead_letters = await dead_letters_of(system, order_id, "headers_too_deep")
    for dead_letter in dead_letters:
        act = {"note": "a prank"}
        path = f"/dead-letters/{dead_letter['letter_id']}/discard"
        await system.shop.ask("tracker", "POST", path, body=act)
    assert await system.shop.dead_letters(order_id) == []
    assert await system.shop.saga(order_id) is None
    after = await system.shop.place("cust_ada", "tok_ok", Item(sku, 1, 500))
    await system.settle({after: "COMPLETED"})
    assert outages(system) == before
