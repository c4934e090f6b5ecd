"""Every fact of the stream is in the view, once, whatever breaks meanwhile."""

import asyncio
from collections.abc import MutableMapping
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import aio_pika
import psycopg
import pytest
from pamqp import encode as pamqp_encode
from psycopg.rows import DictRow, dict_row
from yarl import URL

from events.messaging.envelope import Envelope, encode
from saga_tracker.reading.recorder import Recorder
from saga_tracker.service import Tracker
from tests.runtime.eventually import eventually
from tests.tracker.facts import PATHS, envelopes
from tests.tracker.test_recorder import batch_of
from tests.tracker.watch import Watch, is_ready

BURST = 60
MAX_BYTES = 5_000


async def test_a_saga_shows_as_its_facts_are_published(watch: Watch) -> None:
    await watch.start()
    order = uuid4()
    for fact, state in zip(
        envelopes(PATHS["declined"], order),
        ("PENDING_INVENTORY", "PENDING_PAYMENT", "COMPENSATING", "COMPENSATING", "CANCELLED"),
        strict=False,
    ):
        await watch.say(fact)
        await eventually(partial(_stands, watch, order, state))


async def test_what_was_published_before_it_started_is_read(watch: Watch) -> None:
    facts = envelopes(PATHS["completed"], uuid4())
    await watch.say(*facts)
    await watch.start()
    await watch.sees_facts(len(facts))


async def test_order_and_repetition_in_the_stream_do_not_matter(watch: Watch) -> None:
    orders = {path: uuid4() for path in PATHS}
    for path, order in orders.items():
        facts = envelopes(PATHS[path], order)
        await watch.say(*reversed(facts), *facts)
    await watch.start()
    await watch.sees_facts(sum(len(path.split()) for path in PATHS.values()))
    await watch.read_when_published()
    backwards = await watch.rows("SELECT order_id, state, since, waiting_for, reason, fact_count FROM sagas")
    again = {path: uuid4() for path in PATHS}
    for path, order in again.items():
        await watch.say(*envelopes(PATHS[path], order))
    await watch.sees_facts(2 * sum(len(path.split()) for path in PATHS.values()))
    await watch.read_when_published()
    by_order = {row.pop("order_id"): row for row in backwards}
    for path, order in again.items():
        found = await watch.rows(
            "SELECT state, since, waiting_for, reason, fact_count FROM sagas WHERE order_id = %(id)s",
            id=order,
        )
        assert found == [by_order[orders[path]]]


async def test_who_loses_a_node_of_the_broker_reads_on_from_another(watch: Watch) -> None:
    one, other = await watch.proxy_broker(), await watch.proxy_broker()
    further = URL(other.url(watch.broker_url))
    await watch.start(broker_url=one.url(watch.broker_url), broker_nodes=(f"{further.host}:{further.port}",))
    facts = envelopes("created reserved", uuid4())
    for seen, (lost, fact) in enumerate(zip((one, other), facts, strict=True), 1):
        lost.cut()
        await watch.say(fact)
        await watch.sees_facts(seen)
        lost.restore()


async def test_it_goes_on_where_it_stopped(watch: Watch) -> None:
    tracker = await watch.start()
    first, second = envelopes("created reserved", uuid4())
    await watch.say(first)
    await watch.sees_facts(1)
    await watch.stop(tracker)
    await watch.say(second)
    tracker = await watch.start()
    await watch.sees_facts(2)
    assert tracker.progress.stream_offset == 1
    written = await watch.rows("SELECT count(DISTINCT xmin::text) AS batches FROM saga_facts")
    assert written[0]["batches"] == 2


async def test_a_broker_that_is_away_is_waited_for_and_logged_once(
    watch: Watch, logged: list[MutableMapping[str, Any]]
) -> None:
    proxy = await watch.proxy_broker()
    proxy.cut()
    tracker = await watch.begin(broker_url=proxy.url(watch.broker_url))
    await watch.say_at_once(fact for _ in range(BURST) for fact in envelopes("created reserved", uuid4()))
    assert not await is_ready(tracker)
    await eventually(lambda: len(_of_reading(logged, "outage_began")) == 1)
    proxy.restore()
    await watch.sees_facts(2 * BURST)
    for _ in range(3):
        proxy.drop_connections()
        await eventually(lambda: is_ready(tracker))
        facts = await watch.facts_seen()
        await watch.say_at_once(fact for _ in range(BURST) for fact in envelopes("created", uuid4()))
        await watch.sees_facts(facts + BURST)
    assert len(_of_reading(logged, "outage_began")) == len(_of_reading(logged, "outage_ended")) <= 4


async def test_a_broker_that_hangs_is_noticed(watch: Watch) -> None:
    proxy = await watch.proxy_broker()
    tracker = await watch.start(
        broker_url=proxy.url(watch.broker_url), connect_timeout_seconds=0.3, stream_answer_seconds=0.3
    )
    proxy.freeze()
    await eventually(lambda: _not_ready(tracker))
    proxy.thaw()
    proxy.drop_connections()
    await eventually(lambda: is_ready(tracker))
    await watch.say(*envelopes("created", uuid4()))
    await watch.sees_facts(1)


async def test_a_database_that_is_away_is_waited_for(watch: Watch) -> None:
    proxy = await watch.proxy_database()
    tracker = await watch.start(database_url=proxy.url(watch.database_url), database_timeout_seconds=0.5)
    await watch.say(*envelopes("created", uuid4()))
    await watch.sees_facts(1)
    proxy.cut()
    await watch.say_at_once(fact for _ in range(BURST) for fact in envelopes(PATHS["completed"], uuid4()))
    assert not await is_ready(tracker)
    proxy.restore()
    await watch.sees_facts(1 + BURST * 8)
    assert await is_ready(tracker)


async def test_a_commit_whose_answer_is_lost_counts_once(watch: Watch) -> None:
    proxy = await watch.proxy_database()
    await watch.start(database_url=proxy.url(watch.database_url), database_timeout_seconds=0.5)
    proxy.lose_answer(b"COMMIT", after=b"INSERT INTO sagas")
    facts = envelopes(PATHS["completed"], uuid4())
    await watch.say(*facts)
    await asyncio.wait_for(proxy.lost.wait(), 10)
    await watch.sees_facts(len(facts))
    shown = await watch.rows("SELECT state, fact_count FROM sagas")
    assert shown == [{"state": "COMPLETED", "fact_count": len(facts)}]


async def test_two_trackers_share_one_view(watch: Watch) -> None:
    first, second = await watch.start(), await watch.start()
    await watch.say_at_once(fact for _ in range(BURST) for fact in envelopes(PATHS["completed"], uuid4()))
    await watch.sees_facts(8 * BURST)
    await watch.stop(first)
    await watch.say_at_once(fact for _ in range(BURST) for fact in envelopes(PATHS["completed"], uuid4()))
    await watch.sees_facts(16 * BURST)
    states = await watch.rows("SELECT state, count(*) AS sagas FROM sagas GROUP BY state")
    assert states == [{"state": "COMPLETED", "sagas": 2 * BURST}]
    assert await is_ready(second)


async def test_what_cannot_be_read_is_recorded_and_keeps_nobody_waiting(
    watch: Watch, logged: list[MutableMapping[str, Any]]
) -> None:
    before, after = envelopes("created reserved", uuid4())
    await watch.say(before)
    for spoilt in (
        {"body": b"\xff{"},
        {"body": b""},
        {"message_id": "seven"},
        {"type": "order.created.v9"},
        {"type": "nobody.said.v1"},
    ):
        message = _changed(before, **spoilt)
        await watch.publish(message, message.type or "")
    await watch.publish(aio_pika.Message(b"{}"), "hello")
    await watch.say(after)
    await watch.start()
    await watch.sees_facts(2)
    found = await watch.rows("SELECT reason, stream_offset FROM unreadable_messages ORDER BY stream_offset")
    assert [row["reason"] for row in found] == [
        "bad_body",
        "bad_body",
        "no_fact_id",
        "unknown_version",
        "unknown_fact",
        "unknown_fact",
    ]
    assert len(_named(logged, "unreadable_in_stream")) == len(found)


async def test_what_is_too_large_is_recorded_as_that(watch: Watch) -> None:
    before, after = envelopes("created reserved", uuid4())
    large = encode(before)
    large.body = large.body.ljust(MAX_BYTES + 1)
    await watch.publish(large, before.fact.wire_name)
    await watch.say(before, after)
    await watch.start(max_request_bytes=MAX_BYTES // 2, max_message_bytes=MAX_BYTES)
    await watch.sees_facts(2)
    (found,) = await watch.rows("SELECT reason, message_id FROM unreadable_messages")
    assert found == {"reason": "too_large", "message_id": str(before.fact_id)}


async def test_a_message_that_the_amqp_library_chokes_on_is_no_obstacle(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = pamqp_encode.METHODS["shortstr"]
    before, odd, after = (envelopes("created", uuid4())[0] for _ in range(3))
    await watch.say(before)
    with monkeypatch.context() as patched:
        patched.setitem(
            pamqp_encode.METHODS,
            "shortstr",
            lambda value: b"\x02\xff\xfe" if value == "LATIN" else strict(value),
        )
        patched.setitem(pamqp_encode.METHODS, "timestamp", lambda _: (2**60).to_bytes(8, "big"))
        message = _changed(odd, app_id="LATIN")
        del message.headers["stated_at"]
        await watch.publish(message, odd.fact.wire_name)
    await watch.say(after)
    await watch.start()
    await watch.sees_facts(3)
    stated_by = await watch.rows("SELECT stated_by FROM saga_facts ORDER BY stream_offset")
    assert [row["stated_by"] for row in stated_by] == ["order", "\ufffd\ufffd", "order"]


async def test_characters_that_the_database_does_not_keep_are_replaced(watch: Watch) -> None:
    fact = envelopes("stock_rejected", uuid4())[0]
    message = _changed(fact, app_id="in\x00ventory")
    message.body = message.body.replace(b"out_of_stock", b"out\\u0000of_stock")
    await watch.publish(message, fact.fact.wire_name)
    await watch.start()
    await watch.sees_facts(1)
    shown = await watch.rows("SELECT reason FROM sagas")
    assert shown == [{"reason": "out\ufffdof_stock"}]


async def test_a_fact_that_the_database_refuses_fails_alone(watch: Watch) -> None:
    await watch.rows("ALTER TABLE saga_facts ADD CHECK (wire_name <> 'payment.held.v1')")
    orders = [uuid4() for _ in range(10)]
    for order in orders:
        await watch.say(*envelopes("created reserved", order))
    await watch.say(envelopes("created reserved held", orders[4])[-1])
    for order in orders:
        await watch.say(envelopes("created reserved captured", order)[-1])
    await watch.start()
    await watch.sees_facts(3 * len(orders))
    refused = await watch.rows("SELECT reason, wire_name FROM unreadable_messages")
    assert refused == [{"reason": "CheckViolation", "wire_name": "payment.held.v1"}]


async def test_a_plain_publishers_v1_fact_without_dates_begins_a_saga(watch: Watch) -> None:
    order, body = uuid4(), b'{"order_id": "%s", "customer": "c", "sku": "lamp", "quantity": 1,'
    body = body % str(order).encode() + b' "amount_minor": 100, "payment_token": "tok_ok"}'
    began = datetime.now(UTC)
    await watch.publish(aio_pika.Message(body, message_id=str(uuid4())), "order.created.v1")
    await watch.start()
    await watch.sees_facts(1)
    (fact,) = await watch.rows("SELECT * FROM saga_facts")
    assert fact["wire_name"] == "order.created.v2"
    assert fact["body"]["lines"] == [{"sku": "lamp", "quantity": 1, "amount_minor": 100}]
    assert began <= fact["stated_at"] <= datetime.now(UTC)


@pytest.mark.parametrize("facts_in_new_stream", [1, 40])
async def test_a_stream_that_was_made_anew_is_read_from_its_start(
    watch: Watch, facts_in_new_stream: int
) -> None:
    tracker = await watch.start()
    old = [envelopes("created", uuid4())[0] for _ in range(20)]
    await watch.say(*old)
    await watch.sees_facts(len(old))
    await watch.stop(tracker)
    await watch.make_stream_anew()
    await watch.say(*(envelopes("created", uuid4())[0] for _ in range(facts_in_new_stream)))
    tracker = await watch.start(stream_answer_seconds=0.5)
    await watch.sees_facts(len(old) + facts_in_new_stream)
    await watch.say(envelopes("created", uuid4())[0])
    await watch.sees_facts(len(old) + facts_in_new_stream + 1)


async def test_a_stream_that_goes_away_meanwhile_is_waited_for(watch: Watch) -> None:
    tracker = await watch.start(stream_answer_seconds=0.5)
    await watch.say(*envelopes("created", uuid4()))
    await watch.sees_facts(1)
    await watch.channel.queue_delete("facts.stream")
    await eventually(lambda: _not_ready(tracker))
    await watch.make_stream_anew()
    await eventually(lambda: is_ready(tracker))
    await watch.say(*envelopes("created", uuid4()))
    await watch.sees_facts(2)


async def test_what_nobody_foresaw_is_logged_once_and_tried_again(
    watch: Watch, logged: list[MutableMapping[str, Any]]
) -> None:
    await watch.rows("ALTER TABLE stream_position RENAME TO mislaid")
    tracker = await watch.begin()
    await watch.say(*envelopes("created", uuid4()))
    await eventually(lambda: _named(logged, "reader_failed"))
    assert not await is_ready(tracker)
    await watch.rows("ALTER TABLE mislaid RENAME TO stream_position")
    await watch.sees_facts(1)
    assert await is_ready(tracker)
    assert len(_named(logged, "reader_failed")) == len(_named(logged, "outage_ended")) == 1


async def test_a_batch_costs_as_many_statements_as_a_single_fact(watch: Watch) -> None:
    async with await CountingConnection.connect(watch.database_url, row_factory=dict_row) as connection:
        assert isinstance(connection, CountingConnection)
        costs = []
        for count in (1, 300):
            facts = [fact for _ in range(count) for fact in envelopes(PATHS["completed"], uuid4())]
            before = connection.statements
            recorder = Recorder(watch.settings().deadline_rules, 0)
            await recorder.record(connection, batch_of(0, facts), reading=1)
            costs.append(connection.statements - before)
        assert costs[0] == costs[1] <= 7


class CountingConnection(psycopg.AsyncConnection[DictRow]):
    """Counts the statements sent over it."""

    statements = 0

    async def execute(self, *given: Any, **options: Any) -> psycopg.AsyncCursor[DictRow]:
        self.statements += 1
        return await super().execute(*given, **options)


def _changed(envelope: Envelope, **changes: Any) -> aio_pika.Message:
    """The message of a fact, spoilt."""
    message = encode(envelope)
    for name, value in changes.items():
        setattr(message, name, value)
    return message


async def _stands(watch: Watch, order: UUID, state: str) -> bool:
    return await watch.state_of(order) == state


async def _not_ready(tracker: Tracker) -> bool:
    return not await is_ready(tracker)


def _named(logged: list[MutableMapping[str, Any]], event: str) -> list[MutableMapping[str, Any]]:
    return [line for line in logged if line["event"] == event]


def _of_reading(lines: list[MutableMapping[str, Any]], event: str) -> list[MutableMapping[str, Any]]:
    return [line for line in _named(lines, event) if line.get("of") == "broker, for reading the stream"]
