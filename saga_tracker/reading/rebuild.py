"""Builds the view anew from the stream, in one transaction: until it commits, the old view is served.

The tracker may go on running. It waits for the writer's lock, and then continues behind the new view.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import psycopg
from sqlalchemy import select

from events.messaging.connection import BROKER_AWAY
from events.storage.database import AWAY, Connection, connect_options
from events.storage.sql import as_arrays, compiled, rows_of
from events.telemetry.log import Outage, log
from events.telemetry.redaction import in_words
from saga_tracker.reading import gaps, repository
from saga_tracker.reading.gaps import REMEMBER_FACTS, facts_before, keep_missing
from saga_tracker.reading.recorder import Key, Recorder
from saga_tracker.reading.repository import AnotherWrites, Position
from saga_tracker.reading.stream import Arrived, Subscription, offset_of, read_batch, storable
from saga_tracker.settings import RebuildSettings

# A stream that is silent for so long where it was expected to end has been read to its end; one that never
# is silent is left to the tracker, a little behind the end.
_SILENCE_SECONDS = 0.5
_MAX_BATCHES_PAST_END = 20
_REPORT_SECONDS = 2.0


class RebuildFailed(Exception):
    """Why nothing was changed, and what to do about it."""


@dataclass(slots=True)
class Rebuilt:
    """What a rebuild read, and how many facts it kept that the stream no longer has."""

    messages: int
    unreadable: int
    seconds: float
    kept: int = 0

    @property
    def per_second(self) -> int:
        return round(self.messages / self.seconds) if self.seconds else 0


async def rebuild(settings: RebuildSettings, *, forget_missing: bool) -> Rebuilt:
    """Drop the view and read the stream from its start to its end.

    What the view has of a saga and the stream no longer is kept, but with `forget_missing` of ended sagas
    alone: no rebuild makes an ended saga another one. Raises RebuildFailed, and changes nothing, when the
    database goes away or a writer does not yield.
    """
    try:
        connection = await psycopg.AsyncConnection.connect(
            settings.database_url, **connect_options(settings, "tracker rebuild")
        )
        async with connection:
            before = await _become_writer(connection, settings)
            for remember in REMEMBER_FACTS:
                await connection.execute(remember)
            position = await repository.drop_view(connection)
            reading = _Rebuild(settings, connection, before, position.reading)
            rebuilt = await reading.run()
            rebuilt.kept = await keep_missing(connection, settings, ended_only=forget_missing)
            await reading.note_gap()
            log.info("committing", messages=rebuilt.messages, facts_kept=rebuilt.kept)
    except AWAY as error:
        raise RebuildFailed(f"the database is away, the view is as it was: {in_words(error)}") from error
    return rebuilt


_KEY = [facts_before.c.order_id, facts_before.c.fact_id]
_read = rows_of(_KEY)
_FIRST_READ = compiled(select(*facts_before.c).where(*(column == _read.c[column.name] for column in _KEY)))


async def _become_writer(connection: Connection, settings: RebuildSettings) -> Position:
    deadline = time.monotonic() + settings.rebuild_lock_timeout_seconds
    while True:
        try:
            return await repository.lock(connection)
        except AnotherWrites:
            await connection.rollback()
            if time.monotonic() > deadline:
                raise RebuildFailed("another rebuild is running; try again when it is done") from None


async def _first_read(connection: Connection, keys: Sequence[Key]) -> Mapping[Key, datetime]:
    """When the facts were read that the view had before: a rebuild counts from the same."""
    cursor = await connection.execute(_FIRST_READ, as_arrays(_KEY, keys))
    return {(row["order_id"], row["fact_id"]): row["read_at"] for row in await cursor.fetchall()}


class _Rebuild:
    """The reading of the whole stream inside the one transaction."""

    def __init__(
        self, settings: RebuildSettings, connection: Connection, before: Position, reading: int
    ) -> None:
        self._settings = settings
        self._connection = connection
        self._before = before
        self._begins_at: int | None = None
        self._found_again = before.stream_offset < 0
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

    async def note_gap(self) -> None:
        """Say so where the view had not been read up to what the stream begins with now."""
        begins_at, known = self._begins_at or 0, self._before.stream_offset
        if self._found_again or begins_at == known + 1:
            return
        why = gaps.TRUNCATED if begins_at > known else gaps.MADE_ANEW
        sagas = await gaps.note(
            self._connection, why, known, begins_at, self._settings.look_up_patience_seconds
        )
        log.error("facts_never_read", why=why, sagas_to_look_up=sagas)

    def _compare_with_before(self, messages: Sequence[Arrived]) -> None:
        """Whether this is the stream that the view was made from, by the last message that was in it."""
        if self._begins_at is None:
            self._begins_at = offset_of(messages[0].message)
        if not self._found_again and offset_of(messages[-1].message) >= self._before.stream_offset:
            self._found_again = any(
                offset_of(message) == self._before.stream_offset
                and storable(message.message_id) == self._before.message_id
                for message, _ in messages
            )

    async def _read_to_end(self, stream: Subscription) -> None:
        """Up to the offset near the end that was known at first, and then what else is there already."""
        end = await stream.known_end()
        batches_past_end = 0
        while end is not None and batches_past_end < _MAX_BATCHES_PAST_END:
            if self._reached >= end:
                batches_past_end += 1
                if await _silent(stream):
                    break
            messages = await stream.next_batch()
            self._compare_with_before(messages)
            batch = read_batch(messages, self._settings.max_message_bytes)
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
