"""A fact that contradicts what is known begins no saga: it is recorded as unreadable, and says what it is."""

from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import aio_pika
import psycopg
import pytest
from psycopg.sql import SQL

from events.facts.order import OrderCreated
from events.messaging.envelope import Envelope, encode
from events.messaging.retries import ROUTING_KEY
from events.service import REDRIVE_EXCHANGE
from saga_tracker.reading import repository
from tests.tracker.facts import LINES, PATHS, envelopes
from tests.tracker.watch import Watch

OTHER_LINES = (LINES[0].model_copy(update={"quantity": 3}),)


def created(order_id: UUID, fact_id: UUID, lines: Any = LINES) -> Envelope:
    """order.created of an order, under an id."""
    (published,) = envelopes("created", order_id)
    assert isinstance(published.fact, OrderCreated)
    return replace(published, fact_id=fact_id, fact=published.fact.model_copy(update={"lines": lines}))


async def unreadable(watch: Watch) -> list[tuple[str, str, str]]:
    rows = await watch.rows(
        "SELECT reason, detail, message_id FROM unreadable_messages ORDER BY stream_offset"
    )
    return [(row["reason"], row["detail"], row["message_id"]) for row in rows]


async def read_all(watch: Watch) -> None:
    """What was said so far is in the view."""
    last = uuid4()
    await watch.say(*envelopes("created", last))
    await watch.sees_order(last)


@pytest.mark.parametrize("in_one_batch", [True, False])
async def test_a_second_order_under_a_used_id_begins_no_saga(watch: Watch, *, in_one_batch: bool) -> None:
    first, second, fact_id = uuid4(), uuid4(), uuid4()
    changes = {"batch_size": 100 if in_one_batch else 1}
    await watch.say(created(first, fact_id), created(second, fact_id), created(first, fact_id))
    tracker = await watch.start(**changes)
    await read_all(watch)
    ((reason, detail, message_id),) = await unreadable(watch)
    assert (reason, message_id) == ("reused_message_id", str(fact_id))
    assert str(first) in detail
    assert await watch.state_of(first) == "PENDING_INVENTORY"
    assert await watch.state_of(second) is None
    await watch.stop(tracker)
    before = await watch.view()
    rebuilt = await watch.rebuild(batch_size=2)
    assert await watch.view() == before
    assert (rebuilt.messages, rebuilt.unreadable) == (4, 1)


async def test_other_content_under_a_known_id_is_found_out(watch: Watch) -> None:
    order, fact_id = uuid4(), uuid4()
    await watch.start(batch_size=1)
    (reserved,) = envelopes("created reserved", order)[1:]
    await watch.say(created(order, fact_id), created(order, fact_id, OTHER_LINES))
    await watch.say(replace(reserved, fact_id=fact_id))
    await read_all(watch)
    found = await unreadable(watch)
    assert [reason for reason, _, _ in found] == ["reused_message_id"] * 2
    assert all(f"order.created of order {order}" in detail for _, detail, _ in found)
    assert await watch.state_of(order) == "PENDING_INVENTORY"


@pytest.mark.parametrize("batch_size", [1, 100])
async def test_a_second_beginning_with_other_content_contradicts_the_first(
    watch: Watch, batch_size: int
) -> None:
    order, first, again, other = (uuid4() for _ in range(4))
    facts = envelopes(PATHS["completed"], order)[1:]
    await watch.say(created(order, first), created(order, again), *facts[:1])
    await watch.say(created(order, other, OTHER_LINES), *facts[1:])
    tracker = await watch.start(batch_size=batch_size)
    await read_all(watch)
    ((reason, detail, message_id),) = await unreadable(watch)
    assert (reason, message_id) == ("contradicts", str(other))
    assert str(order) in detail
    assert await watch.state_of(order) == "COMPLETED"
    await watch.stop(tracker)
    before = await watch.view()
    await watch.rebuild(batch_size=3)
    assert await watch.view() == before


async def test_repetitions_are_silent(watch: Watch) -> None:
    """Of v1 as v2, in other bytes, and of what an older release recorded."""
    order, fact_id = uuid4(), str(uuid4())
    order_is = f'{{"order_id": "{order}", "customer": "c", "payment_token": "t",'
    v1 = f'{order_is} "sku": "a", "quantity": 1, "amount_minor": 2}}'
    line = '{"sku": "a", "quantity": 1, "amount_minor": 2}'
    v2 = f'{order_is} "more": 1, "currency": "EUR", "lines": [{line}]}}'
    tracker = await watch.start(batch_size=1)
    await watch.publish(aio_pika.Message(v1.encode(), message_id=fact_id), "order.created.v1")
    await watch.publish(aio_pika.Message(v2.encode(), message_id=fact_id), "order.created.v2")
    await read_all(watch)
    await watch.stop(tracker)
    await watch.rows("UPDATE saga_facts SET content = NULL")
    await watch.start()
    await watch.say(created(order, UUID(fact_id), OTHER_LINES))
    await read_all(watch)
    assert await unreadable(watch) == []
    assert await watch.facts_seen() == 3


async def test_a_saga_that_an_older_release_began_under_a_used_id_ends_with_a_rebuild(watch: Watch) -> None:
    first, second, fact_id = uuid4(), uuid4(), uuid4()
    tracker = await watch.start()
    await watch.say(created(first, fact_id))
    await watch.say(created(second, uuid4()))
    await watch.sees_facts(2)
    await watch.stop(tracker)
    # As it recorded a message that comes next.
    await watch.rows(
        "UPDATE saga_facts SET fact_id = %(id)s, content = NULL WHERE order_id = %(order)s",
        id=fact_id,
        order=second,
    )
    await watch.make_stream_anew()
    await watch.say(created(first, fact_id), created(second, fact_id))
    await watch.rebuild()
    assert await watch.state_of(second) is None
    assert await watch.state_of(first) == "PENDING_INVENTORY"
    assert [reason for reason, _, _ in await unreadable(watch)] == ["reused_message_id"]


async def test_what_is_replayed_to_the_tracker_counts_as_what_it_was_sent_as(watch: Watch) -> None:
    order, fact_id = uuid4(), uuid4()
    await watch.start()
    message = encode(created(order, fact_id))
    message.headers = {**message.headers, ROUTING_KEY: "order.created.v2"}
    forged = encode(created(uuid4(), uuid4()))
    forged.headers = {**forged.headers, ROUTING_KEY: "order.created.v1"}
    redrive = await watch.channel.get_exchange(REDRIVE_EXCHANGE)
    await redrive.publish(message, "tracker")
    await redrive.publish(forged, "tracker")
    await read_all(watch)
    assert await watch.state_of(order) == "PENDING_INVENTORY"
    assert [reason for reason, _, _ in await unreadable(watch)] == ["forged_type"]


async def test_the_ids_under_which_orders_began_are_looked_up_by_their_index(watch: Watch) -> None:
    await watch.rows(
        """
        INSERT INTO saga_facts
            (order_id, fact_id, wire_name, stated_by, stated_at, dated, stream_offset, body)
        SELECT gen_random_uuid(), gen_random_uuid(),
            CASE n & 7 WHEN 0 THEN 'order.created.v2' ELSE 'payment.captured.v1' END,
            'x', now(), true, n, '{}'
        FROM generate_series(1, 20000) AS n
        """
    )
    async with await psycopg.AsyncConnection.connect(watch.database_url) as connection:
        cursor = await connection.execute(
            SQL("EXPLAIN ") + SQL(repository._POSITION_AND_KNOWN.decode()),
            {"begun_ids": [uuid4() for _ in range(50)], "order_ids": [uuid4() for _ in range(50)]},
        )
        plan = "\n".join([row[0] async for row in cursor])
    assert "saga_facts_begun" in plan
