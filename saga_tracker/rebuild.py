"""Builds the view anew from the stream, in one transaction: until it commits, the old view is served.

The tracker may go on running. It waits for the writer's lock, and then continues behind the new view.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import psycopg

from events.messaging.connection import BROKER_AWAY
from events.runtime.database import AWAY, Connection, connect_options
from events.runtime.log import Outage, log
from saga_tracker import store
from saga_tracker.recorder import Key, Recorder
from saga_tracker.settings import RebuildSettings
from saga_tracker.store import AnotherWrites
from saga_tracker.stream import Subscription, read_batch

# A stream that is silent for so long where it was expected to end has been read to its end; one that never
# is silent is left to the tracker, a little behind the end.
_SILENCE_SECONDS = 0.5
_MAX_BATCHES_PAST_END = 20
_REPORT_SECONDS = 2.0


class RebuildFailed(Exception):
    """Why nothing was changed, and what to do about it."""


@dataclass(slots=True)
class Rebuilt:
    """What a rebuild read."""

    messages: int
    unreadable: int
    seconds: float

    @property
    def per_second(self) -> int:
        return round(self.messages / self.seconds) if self.seconds else 0


async def rebuild(settings: RebuildSettings, *, forget_missing: bool) -> Rebuilt:
    """Drop the view and read the stream from its start to its end.

    Facts in the view that the stream no longer has would be lost: unless `forget_missing`, that raises
    RebuildFailed and changes nothing. So do a database that goes away and a writer that does not yield.
    """
    try:
        connection = await psycopg.AsyncConnection.connect(
            settings.database_url, **connect_options(settings, "tracker rebuild")
        )
        async with connection:
            await _become_writer(connection, settings)
            for remember in _REMEMBER_FACTS:
                await connection.execute(remember)
            position = await store.drop_view(connection)
            rebuilt = await _Rebuild(settings, connection, position.reading).run()
            if not forget_missing:
                await _refuse_to_forget(connection)
            log.info("committing", messages=rebuilt.messages)
    except AWAY as error:
        raise RebuildFailed(f"the database is away, the view is as it was: {error}") from error
    return rebuilt


_REMEMBER_FACTS = (
    b"""
    CREATE TEMPORARY TABLE facts_before ON COMMIT DROP AS
    SELECT order_id, fact_id, coalesce(read_at, stated_at) AS read_at FROM saga_facts
    """,
    b"CREATE INDEX ON facts_before (fact_id, order_id)",
    b"ANALYZE facts_before",
)
_FIRST_READ = b"""
    SELECT order_id, fact_id, before.read_at FROM facts_before AS before
    JOIN unnest(%(order_ids)s::uuid[], %(fact_ids)s::uuid[]) AS wanted (order_id, fact_id)
    USING (order_id, fact_id)
"""
_COUNT_MISSING = """
    SELECT count(*) AS facts, count(DISTINCT order_id) AS orders FROM facts_before AS before
    WHERE NOT EXISTS (
        SELECT FROM saga_facts AS now WHERE (now.order_id, now.fact_id) = (before.order_id, before.fact_id))
    AND NOT EXISTS (
        SELECT FROM unreadable_messages AS refused
        WHERE refused.message_id = before.fact_id::text
        AND refused.reason IN ('reused_message_id', 'contradicts'))
"""


async def _become_writer(connection: Connection, settings: RebuildSettings) -> None:
    deadline = time.monotonic() + settings.rebuild_lock_timeout_seconds
    while True:
        try:
            await store.lock(connection)
        except AnotherWrites:
            await connection.rollback()
            if time.monotonic() > deadline:
                raise RebuildFailed("another rebuild is running; try again when it is done") from None
        else:
            return


async def _first_read(connection: Connection, keys: Sequence[Key]) -> Mapping[Key, datetime]:
    """When the facts were read that the view had before: a rebuild counts from the same."""
    order_ids, fact_ids = [key[0] for key in keys], [key[1] for key in keys]
    cursor = await connection.execute(_FIRST_READ, {"order_ids": order_ids, "fact_ids": fact_ids})
    return {(row["order_id"], row["fact_id"]): row["read_at"] for row in await cursor.fetchall()}


async def _refuse_to_forget(connection: Connection) -> None:
    cursor = await connection.execute(_COUNT_MISSING)
    row = await cursor.fetchone()
    if row is not None and row["facts"]:
        raise RebuildFailed(
            f"the stream no longer has {row['facts']} facts of {row['orders']} orders that the view has;"
            " nothing was changed. To go without them: rebuild --forget-missing"
        )


class _Rebuild:
    """The reading of the whole stream inside the one transaction."""

    def __init__(self, settings: RebuildSettings, connection: Connection, reading: int) -> None:
        self._settings = settings
        self._connection = connection
        self._reading = reading
        self._recorder = Recorder(settings.deadline_rules, settings.remembered_sagas, _first_read)
        self._outage = Outage("broker, for reading the stream")
        self._reached = -1
        self._began = self._reported = time.monotonic()
        self._rebuilt = Rebuilt(0, 0, 0.0)

    async def run(self) -> Rebuilt:
        """Read until the end is reached; a broker that goes away meanwhile is waited for."""
        while True:
            try:
                first = None if self._reached < 0 else self._reached + 1
                async with Subscription(self._settings, first) as stream:
                    self._outage.ended()
                    await self._read_to_end(stream)
                break
            except BROKER_AWAY as error:
                self._outage.began(error)
            await asyncio.sleep(self._settings.reconnect_seconds)
        self._rebuilt.seconds = time.monotonic() - self._began
        return self._rebuilt

    async def _read_to_end(self, stream: Subscription) -> None:
        """Up to the offset near the end that was known at first, and then what else is there already."""
        end = await stream.known_end()
        batches_past_end = 0
        while end is not None and batches_past_end < _MAX_BATCHES_PAST_END:
            if self._reached >= end:
                batches_past_end += 1
                if await _silent(stream):
                    break
            batch = read_batch(await stream.next_batch(), self._settings.max_message_bytes)
            # So that the next messages come while these are written.
            await stream.settle()
            recorded = await self._recorder.record(self._connection, batch, self._reading)
            self._recorder.committed(recorded)
            self._reached = batch.last_offset
            self._rebuilt.messages += len(batch.facts) + len(batch.unreadable)
            self._rebuilt.unreadable += len(recorded.batch.unreadable)
            self._report(end)

    def _report(self, end: int) -> None:
        now = time.monotonic()
        if now - self._reported >= _REPORT_SECONDS:
            self._reported = now
            self._rebuilt.seconds = now - self._began
            log.info(
                "rebuilding",
                messages=self._rebuilt.messages,
                stream_offset=self._reached,
                of_about=end,
                per_second=self._rebuilt.per_second,
            )


async def _silent(stream: Subscription) -> bool:
    try:
        await asyncio.wait_for(stream.peek(), _SILENCE_SECONDS)
    except TimeoutError:
        return True
    return False
