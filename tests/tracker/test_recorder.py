"""What the recorder remembers between batches never makes the view another one."""

import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import cast
from uuid import UUID, uuid4

import psycopg
import pytest
from aiormq.abc import AbstractChannel, DeliveredMessage
from pamqp.commands import Basic
from pamqp.header import ContentHeader
from psycopg.rows import DictRow, dict_row

from events.messaging.envelope import Envelope, encode
from events.runtime.settings import MAX_MESSAGE_BYTES
from events.service import EXCHANGE
from saga_tracker.reading import repository
from saga_tracker.reading.batch import ReadBatch
from saga_tracker.reading.recorder import FirstRead, Key, Recorded, Recorder
from saga_tracker.reading.repository import ReadAnew
from saga_tracker.reading.stream import Arrived, StreamMessage, read_batch
from tests.tracker.facts import PATHS, envelopes
from tests.tracker.watch import Watch


class Pen:
    """A recorder with a connection of its own, as one tracker has it."""

    def __init__(
        self,
        watch: Watch,
        connection: psycopg.AsyncConnection[DictRow],
        remembered: int,
        first_read: FirstRead | None,
    ) -> None:
        self.recorder = Recorder(watch.settings().deadline_rules, remembered, first_read)
        self.connection = connection

    async def write(self, batch: ReadBatch, *, fails: bool = False) -> Recorded:
        recorded = await self.recorder.record(self.connection, batch, reading=1)
        if fails:
            await self.connection.rollback()
        else:
            await self.connection.commit()
            self.recorder.committed(recorded)
        return recorded


@asynccontextmanager
async def pen(watch: Watch, remembered: int = 10, first_read: FirstRead | None = None) -> AsyncIterator[Pen]:
    async with await psycopg.AsyncConnection.connect(watch.database_url, row_factory=dict_row) as connection:
        yield Pen(watch, connection, remembered, first_read)


def batch_of(first_offset: int, facts: Iterable[Envelope]) -> ReadBatch:
    """These facts, as they would be read from this offset on."""
    arrived = [
        Arrived(delivery_of(offset, fact), time.monotonic())
        for offset, fact in enumerate(facts, first_offset)
    ]
    return read_batch(arrived, MAX_MESSAGE_BYTES)


def delivery_of(offset: int, fact: Envelope) -> StreamMessage:
    message = encode(fact)
    message.headers["x-stream-offset"] = offset
    delivery = Basic.Deliver("reader", offset, False, EXCHANGE, fact.fact.wire_name)
    header = ContentHeader(0, len(message.body), message.properties)
    return StreamMessage(DeliveredMessage(delivery, header, message.body, cast(AbstractChannel, None)))


async def shown(watch: Watch, order_id: UUID) -> tuple[str, int]:
    (row,) = await watch.rows("SELECT state, fact_count FROM sagas WHERE order_id = %(id)s", id=order_id)
    return row["state"], row["fact_count"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("remembered", [0, 10])
async def test_a_fact_at_a_time_shows_what_one_batch_shows(watch: Watch, path: str, remembered: int) -> None:
    order = uuid4()
    facts = envelopes(PATHS[path], order)
    async with pen(watch, remembered) as slow:
        for offset, fact in enumerate(facts):
            await slow.write(batch_of(offset, [fact]))
    one_by_one = await watch.view()
    read_at = {(row["order_id"], row["fact_id"]): row["read_at"] for row in one_by_one["saga_facts"]}

    async def as_before(_: object, keys: Sequence[Key]) -> Mapping[Key, datetime]:
        return {key: read_at[key] for key in keys}

    await watch.rows("DELETE FROM sagas")
    await watch.rows("DELETE FROM saga_facts")
    await watch.rows("UPDATE stream_position SET stream_offset = -1, message_id = NULL")
    async with pen(watch, first_read=as_before) as quick:
        await quick.write(batch_of(0, facts))
    assert await watch.view() == one_by_one


async def test_what_another_tracker_wrote_meanwhile_counts(watch: Watch) -> None:
    order = uuid4()
    created, reserved, captured, scheduled = envelopes("created reserved captured scheduled", order)
    async with pen(watch) as one, pen(watch) as other:
        await one.write(batch_of(0, [created]))
        await other.write(batch_of(1, [reserved]))
        await other.write(batch_of(2, [captured]))
        recorded = await one.write(batch_of(3, [scheduled]))
    assert len(recorded.known[order]) == 4
    assert len(recorded.new[order]) == 1
    assert await shown(watch, order) == ("PENDING_SHIPMENT", 4)


async def test_what_was_rolled_back_is_not_remembered(watch: Watch) -> None:
    order = uuid4()
    created, reserved = envelopes("created reserved", order)
    async with pen(watch) as tracker:
        await tracker.write(batch_of(0, [created]))
        await tracker.write(batch_of(1, [reserved]), fails=True)
        recorded = await tracker.write(batch_of(1, [reserved]))
    assert len(recorded.new[order]) == 1
    assert await shown(watch, order) == ("PENDING_PAYMENT", 2)


async def test_a_commit_whose_answer_was_lost_is_found_again(watch: Watch) -> None:
    order = uuid4()
    created, reserved = envelopes("created reserved", order)
    async with pen(watch) as tracker:
        await tracker.recorder.record(tracker.connection, batch_of(0, [created]), reading=1)
        await tracker.connection.commit()
        repeated = await tracker.write(batch_of(0, [created]))
        assert not repeated.new
        await tracker.write(batch_of(1, [reserved, created]))
    assert await shown(watch, order) == ("PENDING_PAYMENT", 2)


@pytest.mark.parametrize("has_written", [False, True])
async def test_who_hangs_does_not_keep_the_right_to_write(watch: Watch, has_written: bool) -> None:
    created, reserved = envelopes("created reserved", uuid4())
    hanging = await psycopg.AsyncConnection.connect(
        watch.database_url, row_factory=dict_row, options="-c idle_in_transaction_session_timeout=200"
    )
    try:
        if has_written:
            recorder = Recorder(watch.settings().deadline_rules, 0)
            await recorder.record(hanging, batch_of(0, [created]), reading=1)
        else:
            await repository.lock(hanging)
        async with pen(watch) as other:
            assert len((await other.write(batch_of(0, [created, reserved]))).new) == 1
    finally:
        await hanging.close()


async def test_who_reads_anew_is_not_mistaken(watch: Watch) -> None:
    created, reserved = envelopes("created reserved", uuid4())
    async with pen(watch) as tracker:
        await tracker.write(batch_of(0, [created]))
        async with pen(watch) as rebuild:
            await repository.drop_view(rebuild.connection)
            await rebuild.connection.commit()
        with pytest.raises(ReadAnew):
            await tracker.write(batch_of(1, [reserved]))


async def test_it_remembers_no_more_than_it_may_and_nothing_that_ended(watch: Watch) -> None:
    async with pen(watch, remembered=3) as tracker:
        orders = [uuid4() for _ in range(5)]
        for offset, order in enumerate(orders):
            await tracker.write(batch_of(offset, envelopes("created", order)))
        assert list(tracker.recorder.remembered) == orders[2:]
        await tracker.write(batch_of(5, envelopes(PATHS["completed"], orders[3])))
        assert list(tracker.recorder.remembered) == [orders[2], orders[4]]
        await tracker.write(batch_of(13, envelopes("created reserved", orders[0])[1:]))
    assert await shown(watch, orders[0]) == ("PENDING_PAYMENT", 2)


async def test_facts_were_read_when_they_arrived_one_after_the_other_by_the_databases_clock(
    watch: Watch,
) -> None:
    names = "created reserved captured scheduled"
    batch = batch_of(0, envelopes(names, uuid4()))
    before = (await watch.rows("SELECT clock_timestamp() AS now"))[0]["now"]
    # Two that arrived at once a minute ago, and two later ones.
    ages = (60.0, 60.0, 30.0, 0.0)
    arrived = [
        fact._replace(arrived_seconds=time.monotonic() - age)
        for fact, age in zip(batch.facts, ages, strict=True)
    ]
    async with pen(watch) as tracker:
        await tracker.write(ReadBatch(batch.last_offset, batch.last_message_id, arrived))
    rows = await watch.rows("SELECT read_at, clock_timestamp() AS now FROM saga_facts ORDER BY stream_offset")
    read_at, now = [row["read_at"] for row in rows], rows[0]["now"]
    assert read_at == sorted(set(read_at))
    for at, age in zip(read_at, ages, strict=True):
        assert before - timedelta(seconds=age + 1) < at < now - timedelta(seconds=age)
