"""Ids used twice, in the running system: what contradicts is a dead letter, what repeats is silent."""

import json
from typing import Any
from uuid import UUID, uuid4

import aio_pika

from compose.demo.shop import Item
from events.messaging.topology import PUBLISHER, TRACKER
from events.service import EXCHANGE, REDRIVE_EXCHANGE
from saga_tracker.reading.rebuild import rebuild
from saga_tracker.settings import RebuildSettings
from tests.system.stage import System, until

SUBSCRIBERS = ["inventory", "order"]


def order_created(
    order_id: UUID, sku: str, quantity: int = 1, *, message_id: str | None = None
) -> aio_pika.Message:
    body = {
        "order_id": str(order_id),
        "customer": "cust_ada",
        "currency": "EUR",
        "payment_token": "tok_ok",
        "lines": [{"sku": sku, "quantity": quantity, "amount_minor": 500}],
    }
    return aio_pika.Message(
        json.dumps(body).encode(),
        message_id=message_id or str(uuid4()),
        type="order.created.v2",
        app_id="webshop",
        correlation_id=str(order_id),
    )


async def publish(system: System, message: aio_pika.Message) -> None:
    async with system.channel_as(PUBLISHER) as channel:
        facts = await channel.get_exchange(EXCHANGE, ensure=False)
        await facts.publish(message, message.type or "", mandatory=True)


async def dead_letters_of(system: System, order_id: UUID, reason: str) -> list[dict[str, Any]]:
    """One dead letter of each subscriber, and no more."""

    async def each() -> list[dict[str, Any]]:
        dead_letters = await system.shop.dead_letters(order_id)
        return dead_letters if len(dead_letters) >= len(SUBSCRIBERS) else []

    dead_letters = await until(each, f"no dead letters of order {order_id}")
    assert sorted(dead_letter["service"] for dead_letter in dead_letters) == SUBSCRIBERS
    assert {(dead_letter["reason"], dead_letter["attempts"]) for dead_letter in dead_letters} == {(reason, 1)}
    return dead_letters


async def replay(system: System, dead_letters: list[dict[str, Any]]) -> None:
    for dead_letter in dead_letters:
        await system.shop.replay(dead_letter["letter_id"], "it is an order of its own")


async def same_after_a_rebuild(system: System, *order_ids: UUID) -> None:
    """What the tracker says of these orders."""
    before = [_lasting(await system.shop.saga(order_id)) for order_id in order_ids]
    where = system.where
    settings = RebuildSettings(broker_url=where.broker_url(TRACKER), database_url=where.database_url(TRACKER))
    await rebuild(settings, forget_missing=False)
    assert [_lasting(await system.shop.saga(order_id)) for order_id in order_ids] == before


def _lasting(saga: dict[str, Any] | None) -> dict[str, Any] | None:
    return saga and {name: given for name, given in saga.items() if not name.endswith("_seconds")}


async def unreadable(system: System, message_id: str) -> list[str]:
    found = await system.execute(
        "tracker", "SELECT reason FROM unreadable_messages WHERE message_id = %s", [message_id]
    )
    return [reason for (reason,) in found]


async def test_a_second_order_under_a_used_message_id(system: System) -> None:
    """Nothing of it hangs; replayed it is an order of its own."""
    sku, first, second, used = await system.new_sku(5), uuid4(), uuid4(), str(uuid4())
    await publish(system, order_created(first, sku, message_id=used))
    await system.settle({first: "COMPLETED"})
    await publish(system, order_created(second, sku, message_id=used))
    dead_letters = await dead_letters_of(system, second, "reused_message_id")
    assert all(f"order.created.v2 of order {first}" in dead_letter["detail"] for dead_letter in dead_letters)
    await until(lambda: unreadable(system, used))
    assert await unreadable(system, used) == ["reused_message_id"]
    assert await system.shop.saga(second) is None
    await same_after_a_rebuild(system, first, second)
    await replay(system, dead_letters)
    await system.settle({first: "COMPLETED", second: "COMPLETED"})
    assert await system.shop.dead_letters(second) == []
    await same_after_a_rebuild(system, first, second)


async def test_the_message_id_of_an_order_that_order_svc_published(system: System) -> None:
    sku = await system.new_sku(5)
    first = await system.shop.place("cust_ada", "tok_ok", Item(sku, 1, 500))
    await system.settle({first: "COMPLETED"})
    saga = await system.shop.saga(first)
    assert saga is not None
    second, used = uuid4(), saga["facts"][0]["fact_id"]
    await publish(system, order_created(second, sku, message_id=used))
    dead_letters = await dead_letters_of(system, second, "reused_message_id")
    assert all(str(first) in dead_letter["detail"] for dead_letter in dead_letters)
    assert await system.shop.saga(second) is None
    await system.settle({first: "COMPLETED"})


async def test_an_order_that_begins_a_second_time_with_other_content(system: System) -> None:
    """Published, or POSTed, at first."""
    sku, published = await system.new_sku(5), uuid4()
    await publish(system, order_created(published, sku))
    posted = await system.shop.place("cust_ada", "tok_ok", Item(sku, 1, 500))
    await system.settle({published: "COMPLETED", posted: "COMPLETED"})
    for order_id in (published, posted):
        contradicting = order_created(order_id, sku, 2)
        await publish(system, contradicting)
        dead_letters = await dead_letters_of(system, order_id, "contradicts")
        assert all(
            f"order {order_id} began with another" in dead_letter["detail"] for dead_letter in dead_letters
        )
        message_id = contradicting.message_id or ""
        await until(lambda message_id=message_id: unreadable(system, message_id))  # type: ignore[misc]
        assert await unreadable(system, message_id) == ["contradicts"]
    await system.settle({published: "COMPLETED", posted: "COMPLETED"})
    await same_after_a_rebuild(system, published, posted)


async def test_what_is_repeated_is_silent(system: System) -> None:
    """In the old version, in the new one, under another id, from the publisher and from the tracker."""
    sku = await system.new_sku(5)
    v1 = await system.shop.publish("cust_ada", "tok_ok", Item(sku, 1, 500))
    posted = await system.shop.place("cust_ada", "tok_ok", Item(sku, 1, 500))
    await system.settle({v1: "COMPLETED", posted: "COMPLETED"})
    for order_id in (v1, posted):
        saga = await system.shop.saga(order_id)
        assert saga is not None
        same_id = order_created(order_id, sku, message_id=saga["facts"][0]["fact_id"])
        await publish(system, same_id)
        await publish(system, order_created(order_id, sku))
        async with system.channel_as(TRACKER) as channel:
            redrive = await channel.get_exchange(REDRIVE_EXCHANGE, ensure=False)
            same_id.headers = {"retry_routing_key": "order.created.v2"}
            for service in (*SUBSCRIBERS, TRACKER):
                await redrive.publish(same_id, service, mandatory=True)
    last = await system.shop.publish("cust_ada", "tok_ok", Item(sku, 1, 500))
    await system.settle({v1: "COMPLETED", posted: "COMPLETED", last: "COMPLETED"})
    for order_id in (v1, posted):
        assert await system.shop.dead_letters(order_id) == []
        saga = await system.shop.saga(order_id)
        assert saga is not None
        assert saga["state"] == "COMPLETED"
        assert await unreadable(system, saga["facts"][0]["fact_id"]) == []


async def test_an_order_without_a_message_id_is_replayed_to_all(system: System) -> None:
    sku, order_id = await system.new_sku(5), uuid4()
    await publish(system, order_created(order_id, sku, message_id="order-7"))
    dead_letters = await dead_letters_of(system, order_id, "no_fact_id")
    assert await system.shop.saga(order_id) is None
    await replay(system, dead_letters)
    await system.settle({order_id: "COMPLETED"})
    saga = await system.shop.saga(order_id)
    assert saga is not None
    assert [fact["name"] for fact in saga["facts"]].count("order.created") == 1
    assert await system.shop.dead_letters(order_id) == []
    await same_after_a_rebuild(system, order_id)


async def test_a_key_that_is_used_again_is_answered_as_ever(system: System) -> None:
    item, key = Item(await system.new_sku(5), 1, 500), str(uuid4())
    first = await system.shop.place("cust_ada", "tok_ok", item, key=key)
    assert await system.shop.place("cust_ada", "tok_ok", item, key=key) == first
    await system.settle({first: "COMPLETED"})
    assert await system.shop.dead_letters(first) == []
