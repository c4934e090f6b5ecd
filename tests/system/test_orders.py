"""Orders through the running system: repeated, cancelled, competing for the last units, published."""

import asyncio
import json
from collections import Counter
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import aio_pika
import pytest
from aiormq.exceptions import ChannelAccessRefused

from compose.demo.shop import Item, Refused
from saga_tracker.consistency.snapshot import statuses_of
from tests.system.stage import System, until

CANCELLATIONS = 24


def created(sku: str, quantity: int = 1, **changes: Any) -> dict[str, Any]:
    """The body of `order.created.v1`."""
    order = {
        "order_id": str(uuid4()),
        "customer": "cust_kofi",
        "sku": sku,
        "quantity": quantity,
        "amount_minor": 700,
        "currency": "EUR",
        "payment_token": "tok_ok",
    }
    return order | changes


def message(body: dict[str, Any], kind: str = "order.created.v1") -> aio_pika.Message:
    return aio_pika.Message(
        json.dumps(body).encode(),
        message_id=str(uuid4()),
        type=kind,
        app_id="webshop",
        timestamp=datetime.now(UTC),
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
    )


async def publish(system: System, *messages: aio_pika.Message, user: str = "publisher") -> None:
    async with system.channel_as(user) as channel:
        facts = await channel.get_exchange("facts")
        for one in messages:
            await facts.publish(one, routing_key=one.type or "", mandatory=True)


# -- placing ----------------------------------------------------------------------------------------


async def test_the_same_key_is_the_same_order(system: System) -> None:
    sku, key = await system.new_sku(100), str(uuid4())
    place = partial(system.shop.place, "cust_ada", "tok_ok", Item(sku, 2, 500), key=key)
    first, *others = await asyncio.gather(*(place() for _ in range(20)))
    assert set(others) == {first}
    books = await system.settle({first: "COMPLETED"})
    assert books[first].money.times("captured") == 1
    assert await place() == first


async def test_another_body_under_the_same_key_is_refused(system: System) -> None:
    sku, key = await system.new_sku(100), str(uuid4())
    order_id = await system.shop.place("cust_ada", "tok_ok", Item(sku, 1, 500), key=key)
    with pytest.raises(Refused) as refused:
        await system.shop.place("cust_ada", "tok_ok", Item(sku, 2, 500), key=key)
    assert refused.value.status == 422
    assert str(order_id) not in str(refused.value.problem)
    await system.settle({order_id: "COMPLETED"})


async def test_lines_of_one_sku_add_up_and_an_order_takes_all_lines_or_none(system: System) -> None:
    sku, scarce = await system.new_sku(5), await system.new_sku(1)
    twice = await system.shop.place("cust_ada", "tok_ok", Item(sku, 2, 500), Item(sku, 2, 400))
    await system.settle({twice: "COMPLETED"})
    both = await system.shop.place("cust_ada", "tok_ok", Item(sku, 1, 500), Item(scarce, 2, 400))
    unknown = await system.shop.place("cust_ada", "tok_ok", Item(f"no-{sku}", 1, 500))
    books = await system.settle({both: "CANCELLED", unknown: "CANCELLED"})
    assert statuses_of(books[both])["inventory"] == "rejected"
    assert (await system.shop.order(unknown))["reason"] == "unknown_sku"
    [stock] = await system.execute("inventory", "SELECT available, sold FROM stock WHERE sku = %s", [sku])
    assert stock == (1, 4)


@pytest.mark.parametrize("units", [1, 10])
async def test_fifty_orders_for_the_last_units(system: System, units: int) -> None:
    sku = await system.new_sku(units)
    place = partial(system.shop.place, "cust_ada", "tok_ok", Item(sku, 1, 999))
    order_ids = await asyncio.gather(*(place() for _ in range(50)))
    books = await system.settle()
    ends = Counter(books[order_id].verdict for order_id in order_ids)
    assert ends == {"COMPLETED": units, "CANCELLED": 50 - units}
    [stock] = await system.execute(
        "inventory", "SELECT stocked, available, reserved, sold FROM stock WHERE sku = %s", [sku]
    )
    assert stock == (units, 0, 0, units)


# -- cancelling -------------------------------------------------------------------------------------


async def test_a_confirmed_order_cannot_be_cancelled(system: System) -> None:
    sku = await system.new_sku(10)
    order_id = await system.shop.place("cust_ada", "tok_ok", Item(sku, 1, 999))
    await until(partial(_has_status, system, order_id, "confirmed"))
    with pytest.raises(Refused) as refused:
        await system.shop.cancel(order_id)
    assert refused.value.status == 409
    await system.settle({order_id: "COMPLETED"})


async def test_an_order_is_cancelled_while_the_carrier_books(system: System) -> None:
    """Paid already and in flight at the carrier: all of it is undone once the booking's outcome is known."""
    sku = await system.new_sku(10)
    order_id = await system.shop.place("cust_carrier_slow", "tok_ok", Item(sku, 1, 999))
    await system.shop.wait_for_payment(order_id, "captured", 10)
    assert (await system.shop.cancel(order_id))["status"] == "withdrawn"
    await system.shop.cancel(order_id)
    books = await system.settle({order_id: "CANCELLED"})
    assert statuses_of(books[order_id])["fulfillment"] == "cancelled"
    assert (await system.shop.cancel(order_id))["status"] == "cancelled"


async def test_cancellations_at_any_moment_are_kept_or_refused(system: System) -> None:
    """202 is a promise that the order ends cancelled, 409 that it ends completed."""
    sku = await system.new_sku(1_000)

    async def place_and_cancel(number: int) -> tuple[UUID, str]:
        order_id = await system.shop.place("cust_ada", "tok_ok", Item(sku, 1, 999))
        await asyncio.sleep(number * 0.01)  # spread over the length of a saga
        try:
            await system.shop.cancel(order_id)
        except Refused as refused:
            return order_id, {409: "COMPLETED"}[refused.status]
        return order_id, "CANCELLED"

    ends = dict(await asyncio.gather(*(place_and_cancel(number) for number in range(CANCELLATIONS))))
    await system.settle(ends)


async def _has_status(system: System, order_id: UUID, status: str) -> bool:
    return bool((await system.shop.order(order_id))["status"] == status)


# -- publishing -------------------------------------------------------------------------------------


async def test_a_published_order_counts_once_however_often_it_is_published(system: System) -> None:
    sku = await system.new_sku(10)
    order = created(sku, 3, gift_wrap=True)
    one = message(order)
    await publish(system, one, one, one)
    order_id = UUID(order["order_id"])
    await until(partial(system.shop.saga, order_id))
    books = await system.settle({order_id: "COMPLETED"})
    assert books[order_id].money.times("captured") == 1
    assert (await system.shop.order(order_id))["lines"] == [{"sku": sku, "quantity": 3, "amount_minor": 700}]


async def test_an_unknown_version_becomes_a_dead_letter_and_its_neighbours_are_processed(
    system: System,
) -> None:
    sku = await system.new_sku(10)
    good = [created(sku), created(sku)]
    ahead, broken = message(created(sku), "order.created.v9"), message({"order_id": "?"}, "order.created.v2")
    await publish(system, message(good[0]), ahead, broken, message(good[1]))
    order_ids = [UUID(order["order_id"]) for order in good]
    for order_id in order_ids:
        await until(partial(system.shop.saga, order_id))
    await system.settle(dict.fromkeys(order_ids, "COMPLETED"))
    sent = {ahead.message_id: ("unknown_version", ahead.body), broken.message_id: ("bad_body", broken.body)}

    async def dead_letters() -> list[dict[str, Any]]:
        pages = [
            await system.shop.ask("tracker", "GET", f"/dead-letters?reason={reason}")
            for reason, _ in sent.values()
        ]
        found = [
            dead_letter
            for page in pages
            for dead_letter in page["dead_letters"]
            if dead_letter["message_id"] in sent
        ]
        return found if len(found) >= 2 * len(sent) else []

    found = await until(dead_letters)
    assert Counter(dead_letter["service"] for dead_letter in found) == {"order": 2, "inventory": 2}
    for dead_letter in found:
        reason, body = sent[dead_letter["message_id"]]
        assert (dead_letter["reason"], dead_letter["attempts"]) == (reason, 1)
        whole = await system.shop.ask("tracker", "GET", f"/dead-letters/{dead_letter['letter_id']}")
        assert whole["body"].encode() == body


@pytest.mark.usefixtures("own_servers")
async def test_a_publisher_may_publish_nothing_but_new_orders(system: System) -> None:
    forged = message({"order_id": str(uuid4())}, "payment.captured.v1")
    with pytest.raises(ChannelAccessRefused):
        await publish(system, forged)
    with pytest.raises(ChannelAccessRefused):
        await publish(system, forged, user="inventory")
