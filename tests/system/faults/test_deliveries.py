"""Facts that come twice, in the wrong order, or behind something that cannot be used."""

from functools import partial
from random import shuffle
from uuid import UUID, uuid4

import pytest

from compose.demo.shop import Item
from compose.drills.stage import everything_twice, killed, paused, put_in_queue
from compose.system import SERVICE_NAMES
from saga_tracker.consistency.snapshot import statuses_of
from tests.system.faults.verbs import overheard, publish_again, queued, refusing, reverse, under_load
from tests.system.stage import System, until

ORDERS = 60
LOAD_SECONDS = 1.5
LANDING_SECONDS = 90.0
PAIRS = 4


async def test_every_fact_comes_twice(system: System) -> None:
    async with everything_twice(system.where) as repeated:
        async with under_load(system, ORDERS, LOAD_SECONDS) as burst:
            pass
        await burst.landed()
        published = await system.execute(
            "tracker",
            "SELECT fact_id::text FROM saga_facts WHERE order_id = ANY(%s)",
            [list(burst.accepted_as)],
        )

        async def all_were() -> bool:
            return {fact_id for [fact_id] in published} <= set(repeated)

        await until(all_were, "not every fact was published twice")
    await burst.landed()


async def test_every_fact_comes_again_after_its_inbox_has_forgotten_it(system: System) -> None:
    """In any order, long after its order ended: the state of the order is enough to know it by."""
    async with overheard(system) as facts:
        async with under_load(system, ORDERS, LOAD_SECONDS) as burst:
            pass
        before = await burst.landed()
    for service in SERVICE_NAMES:
        await system.execute(service, "DELETE FROM inbox")
    shuffle(facts)
    await publish_again(system, facts)
    after = await burst.landed()
    assert {order_id: after[order_id] for order_id in burst.accepted_as} == {
        order_id: before[order_id] for order_id in burst.accepted_as
    }
    for service in SERVICE_NAMES:
        [[received]] = await system.execute(service, "SELECT count(*) FROM inbox")
        assert received >= len(burst.accepted_as) / 2


@pytest.mark.parametrize("service", ["inventory", "payment", "fulfillment"])
async def test_the_undo_comes_before_what_it_undoes(system: System, service: str) -> None:
    """The service remembers the order as fenced, and does nothing when more of it comes later."""
    item = Item(await system.new_sku(2 * PAIRS), 1, 500)
    # The tracker would send once more what is late, and the count of what is in the queue go wrong.
    async with paused(system, "tracker"), killed(system, service):
        order_ids = [await system.shop.place("cust_ada", "tok_ok", item) for _ in range(2 * PAIRS)]
        cancelled, kept = order_ids[:PAIRS], order_ids[PAIRS:]
        await queued(system, service, len(order_ids))
        for order_id in cancelled:
            await system.shop.cancel(order_id)
        await queued(system, service, len(order_ids) + len(cancelled))
        await reverse(system, service)
    books = await system.settle(dict.fromkeys(cancelled, "CANCELLED"), LANDING_SECONDS)
    assert {statuses_of(books[order_id])[service] for order_id in cancelled} == {"fenced"}
    assert {books[order_id].verdict for order_id in kept} <= {"COMPLETED", "CANCELLED"}


async def test_the_answers_to_an_order_come_before_the_order(system: System) -> None:
    sku, none_left = await system.new_sku(PAIRS), await system.new_sku(0)
    async with paused(system, "tracker"), killed(system, "order"):
        good = [await system.shop.publish("cust_kofi", "tok_ok", Item(sku, 1, 700)) for _ in range(PAIRS)]
        bad = [
            await system.shop.publish("cust_kofi", "tok_ok", Item(none_left, 1, 700)) for _ in range(PAIRS)
        ]
        await queued(system, "order", 2 * len(good) + 2 * len(bad))
        await reverse(system, "order")
    books = await system.settle(dict.fromkeys(bad, "CANCELLED"), LANDING_SECONDS)
    assert {books[order_id].verdict for order_id in good} <= {"COMPLETED", "CANCELLED"}


async def test_behind_messages_that_nobody_can_read(system: System) -> None:
    """Each is a dead letter at once, as it was; those behind it go their way."""
    poison = {str(uuid4()): service for service in SERVICE_NAMES}
    for message_id, service in poison.items():
        await put_in_queue(system.where, service, b"\x00{", message_id=message_id, kind="order.created.v2")
    item = Item(await system.new_sku(PAIRS), 1, 500)
    good = [await system.shop.place("cust_ada", "tok_ok", item) for _ in range(PAIRS)]
    await system.settle(dict.fromkeys(good, "COMPLETED"))

    async def dead() -> dict[str, str]:
        page = await system.shop.ask("tracker", "GET", "/dead-letters?reason=bad_body&state=open")
        dead_letters = {
            dead_letter["message_id"]: dead_letter["service"] for dead_letter in page["dead_letters"]
        }
        return dead_letters if poison.items() <= dead_letters.items() else {}

    await until(dead, "not every poison is a dead letter")


async def test_behind_a_fact_that_the_database_refuses_for_a_while(system: System) -> None:
    """It comes again by itself, holds nobody up meanwhile, and is no dead letter."""
    item = Item(await system.new_sku(2 * PAIRS), 1, 500)
    async with refusing(system, "payment", "payments", "customer <> 'cust_poison'"):
        bad = [await system.shop.place("cust_poison", "tok_ok", item) for _ in range(PAIRS)]
        good = [await system.shop.place("cust_ada", "tok_ok", item) for _ in range(PAIRS)]
        for order_id in good:
            await until(partial(_is_completed, system, order_id))
    books = await system.settle(dict.fromkeys(good, "COMPLETED"), LANDING_SECONDS)
    assert {books[order_id].verdict for order_id in bad} <= {"COMPLETED", "CANCELLED"}
    assert [await system.shop.dead_letters(order_id) for order_id in bad] == [[]] * PAIRS


async def _is_completed(system: System, order_id: UUID) -> bool:
    saga = await system.shop.saga(order_id)
    return saga is not None and saga["state"] == "COMPLETED"
