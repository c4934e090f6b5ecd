"""Two instances of one service share its queue and its database, and lose or double nothing."""

import random
from collections import Counter
from collections.abc import MutableMapping
from typing import Any
from uuid import UUID, uuid4

import psycopg

from events.runtime.worker import MAX_CONTENTION_RETRIES
from tests.runtime.eventually import eventually
from tests.runtime.stage import Stage, message
from tests.runtime.toy.facts import Bumped, RingWanted

Logged = list[MutableMapping[str, Any]]


async def test_both_work_on_the_same_orders_and_every_effect_happens_once(
    stage: Stage, logged: Logged
) -> None:
    first = await stage.start(batch_size=7, prefetch=20)
    second = await stage.start(batch_size=7, prefetch=20)
    orders = [uuid4() for _ in range(15)]
    messages = [message(Bumped(order_id=order), uuid4()) for order in orders for _ in range(20)]
    twice = messages * 2
    random.Random(11).shuffle(twice)
    await stage.publish(*twice)
    await eventually(stage.drained)
    assert await stage.counts(orders) == dict.fromkeys(orders, 20)
    assert await stage.size("inbox") == len(messages)
    await eventually(lambda: len(set(stage.published(*orders))) == len(messages))
    assert not await stage.dead_letters()
    assert not [line for line in logged if line["log_level"] == "error"]
    assert first.service.decide is second.service.decide


async def test_a_new_order_that_another_instance_was_first_with_is_not_overwritten(stage: Stage) -> None:
    await stage.start()
    order = uuid4()
    async with await psycopg.AsyncConnection.connect(stage.database_url) as other:
        await other.execute("INSERT INTO tallies (order_id, count) VALUES (%s, 10)", [order])
        await stage.say(Bumped(order_id=order))
        await eventually(stage.blocked)  # it found no row, and waits to insert its own
    await eventually(lambda: stage.published(order))
    assert await stage.count_of(order) == 11
    assert not await stage.dead_letters()


async def test_neither_are_the_other_new_orders_of_that_batch_lost(stage: Stage) -> None:
    await stage.start()
    orders = [uuid4() for _ in range(5)]
    async with await psycopg.AsyncConnection.connect(stage.database_url) as other:
        await other.execute("INSERT INTO tallies (order_id, count) VALUES (%s, 10)", [orders[2]])
        await stage.say(*(Bumped(order_id=order) for order in orders))
        await eventually(stage.blocked)
    await eventually(lambda: len(stage.published(*orders)) == 5)
    assert await stage.counts(orders) == dict.fromkeys(orders, 1) | {orders[2]: 11}


async def test_many_new_orders_that_another_instance_was_first_with_are_handled(stage: Stage) -> None:
    """One after the other in one batch, more of them than it is tried again for contention."""
    await stage.start()
    orders = sorted(uuid4() for _ in range(MAX_CONTENTION_RETRIES + 3))
    others = [await psycopg.AsyncConnection.connect(stage.database_url) for _ in orders]
    for other, order in zip(others, orders, strict=True):
        await other.execute("INSERT INTO tallies (order_id, count) VALUES (%s, 10)", [order])
    await stage.say(*(Bumped(order_id=order) for order in orders))
    for other in others:
        await eventually(stage.blocked)
        await other.commit()
        await other.close()
    await eventually(lambda: len(stage.published(*orders)) == len(orders))
    assert await stage.counts(orders) == dict.fromkeys(orders, 11)


async def test_new_orders_that_two_instances_meet_in_opposite_order_do_not_deadlock(stage: Stage) -> None:
    """Locks on rows that do not exist yet have an order, too."""
    await stage.start()
    low, high, held = UUID(int=1), UUID(int=2), uuid4()
    await stage.say(Bumped(order_id=held))
    await eventually(lambda: stage.published(held))
    async with await psycopg.AsyncConnection.connect(stage.database_url) as other:
        await other.execute("INSERT INTO tallies (order_id, count) VALUES (%s, 10)", [low])
        async with stage.holding(held):
            await stage.say(Bumped(order_id=held))
            await eventually(stage.blocked)
            await stage.say(Bumped(order_id=high))
            await stage.say(Bumped(order_id=low))
            await eventually(lambda: stage.waiting_in_queue_is(0))
        await eventually(lambda: len(stage.published(held)) == 2)
        await eventually(stage.blocked)
        # Free, for the toy waits to insert the first before it inserts the second.
        await other.execute("SET LOCAL deadlock_timeout = '10ms'")
        await other.execute("INSERT INTO tallies (order_id, count) VALUES (%s, 10)", [high])
    await eventually(lambda: len(stage.published(low, high)) == 2)
    assert await stage.counts([low, high]) == {low: 11, high: 11}


async def test_a_redelivery_to_the_other_instance_during_the_first_ones_commit_counts_once(
    stage: Stage,
) -> None:
    await stage.start(prefetch=1)
    await stage.start(prefetch=1)
    order, fact_id = uuid4(), uuid4()
    await stage.say(Bumped(order_id=order))
    await eventually(lambda: stage.published(order))
    async with stage.holding(order):
        await stage.publish(*(message(Bumped(order_id=order), fact_id) for _ in range(2)))
        await eventually(lambda: _two_wait(stage))
    await eventually(stage.drained)
    assert await stage.count_of(order) == 2
    assert len(stage.published(order)) == 2


async def test_each_call_is_made_by_one_of_them(stage: Stage) -> None:
    await stage.start(prefetch=3, batch_size=3)
    await stage.start(prefetch=3, batch_size=3)
    orders = [uuid4() for _ in range(40)]
    await stage.say(*(RingWanted(order_id=order) for order in orders))
    await eventually(lambda: len(stage.published(*orders, kind="answered")) == 40)
    assert stage.outside.book.count("asked") == Counter(f"ring:{order}" for order in orders)
    await eventually(stage.drained)


async def _two_wait(stage: Stage) -> bool:
    found = await stage.rows(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    return len(found) == 2
