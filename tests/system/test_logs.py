"""`grep ORDER_ID | sort` over all logs tells the whole story of an order, and nothing that is private."""

import json
from typing import Any
from uuid import UUID, uuid4

from compose.demo.shop import Item
from compose.local.rig import LocalRig
from tests.system.stage import System

COMPLETED = [
    ("order_svc", "asked", "PlaceOrder"),
    ("inventory_svc", "received", "order.created.v2"),
    ("payment_svc", "received", "inventory.stock_reserved.v1"),
    ("payment_svc", "learned", "Captured"),
    ("fulfillment_svc", "received", "payment.captured.v1"),
    ("fulfillment_svc", "learned", "Booked"),
    ("order_svc", "received", "fulfillment.shipment_scheduled.v1"),
]


def everything_logged(rig: LocalRig) -> str:
    return "".join(log.read_text(errors="replace") for log in sorted((rig.state_dir / "logs").glob("*.log")))


def lines_about(rig: LocalRig, order_id: UUID) -> list[dict[str, Any]]:
    """What `grep ORDER_ID | sort` finds."""
    found = [line for line in everything_logged(rig).splitlines() if str(order_id) in line]
    return [json.loads(line) for line in sorted(found)]


async def test_the_lines_of_an_order_are_its_story(system: System, rig: LocalRig) -> None:
    sku = await system.new_sku(10)
    order_id = await system.shop.place("cust_ada", "tok_ok", Item(sku, 1, 500))
    await system.settle({order_id: "COMPLETED"})
    lines = lines_about(rig, order_id)
    story = [(line["process"], line["event"], line["what"]) for line in lines]
    assert [one for one in story if one in COMPLETED] == COMPLETED, story
    assert {line["process"] for line in lines} >= {"notification_svc"}
    saga = await system.shop.saga(order_id)
    assert saga is not None
    assert {line["trace_id"] for line in lines} == {saga["trace_id"]}
    published = {fact for line in lines for fact in line["published"]}
    assert published == {fact["wire_name"] for fact in saga["facts"]}


async def test_who_ordered_and_how_they_pay_is_not_logged(system: System, rig: LocalRig) -> None:
    customer, sku = f"cust_{uuid4().hex}", await system.new_sku(10)
    order_id = await system.shop.place(customer, "tok_flaky", Item(sku, 1, 500))
    await system.settle({order_id: "COMPLETED"})
    logged = everything_logged(rig)
    assert str(order_id) in logged
    assert customer not in logged
    assert "tok_flaky" not in logged
    assert rig.addresses.admin_token not in logged
