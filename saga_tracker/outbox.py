"""What the tracker publishes, by way of a table: entered by the transaction that causes it, sent after that.

Several trackers may publish the same row, and one tracker a row twice. Whoever enters a message derives its
id from what caused it, so for those who hear it, it is the same message.
"""

import asyncio
import contextlib
from collections.abc import Collection, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from aio_pika.exceptions import DeliveryError
from aiormq import Channel
from sqlalchemy import bindparam, delete, not_, select, tuple_
from sqlalchemy.dialects.postgresql import insert

from events.facts.base import Fact
from events.messaging.connection import BROKER_AWAY
from events.messaging.envelope import fields_of
from events.messaging.publisher import Publication, publish_confirmed, publishing_channel
from events.messaging.topology import TRACKER
from events.runtime.database import AWAY, Connection, Database
from events.runtime.log import Outage, log
from events.runtime.promptly import promptly
from events.runtime.sql import as_arrays, compiled, rows_of
from events.service import EXCHANGE
from saga_tracker.settings import TrackerSettings
from saga_tracker.tables import outbox


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to publish. Its id, its exchange and its routing key together make it one of its kind."""

    message_id: UUID
    exchange: str
    routing_key: str
    wire_name: str
    order_id: UUID
    stated_by: str
    body: str
    stated_at: datetime
    causation_id: UUID | None = None
    traceparent: str | None = None


def stating(
    fact: Fact, *, fact_id: UUID, causation_id: UUID | None, stated_at: datetime, traceparent: str | None
) -> Outgoing:
    """A fact of the tracker's own, to be stated to everybody."""
    return Outgoing(
        message_id=fact_id,
        exchange=EXCHANGE,
        routing_key=fact.wire_name,
        wire_name=fact.wire_name,
        order_id=fact.order_id,
        stated_by=TRACKER,
        body=fact.model_dump_json(),
        stated_at=stated_at,
        causation_id=causation_id,
        traceparent=traceparent,
    )


Key = tuple[UUID, str, str]

_COLUMNS = [outbox.c[name] for name in Outgoing.__slots__]
_KEY = [outbox.c.message_id, outbox.c.exchange, outbox.c.routing_key]
_given = rows_of(_COLUMNS)
_ENTER = compiled(
    insert(outbox)
    .from_select([column.name for column in _COLUMNS], select(*_given.c))
    .on_conflict_do_nothing()
)
_set_aside = rows_of(_KEY)
_READ = compiled(
    select(*_COLUMNS)
    .where(not_(tuple_(*_KEY).in_(select(*_set_aside.c))))
    .order_by(outbox.c.entered_at)
    .limit(bindparam("row_limit"))
)
_confirmed = rows_of(_KEY)
_FORGET = compiled(delete(outbox).where(tuple_(*_KEY).in_(select(*_confirmed.c))))


async def enter(connection: Connection, messages: Sequence[Outgoing]) -> None:
    """Have these published once the transaction is committed; those that are on their way already count once.

    They leave within `outbox_sweep_seconds`, or at once if `Publisher.wake` is called after the commit.
    """
    if messages:
        await connection.execute(_ENTER, as_arrays(_COLUMNS, [asdict(message) for message in messages]))


class Publisher:
    """One per tracker, with its own connection to the broker."""

    def __init__(self, settings: TrackerSettings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._outage = Outage("broker, for publishing")
        self._wake = asyncio.Event()
        self._untaken: set[Key] = set()
        self._complained: set[Key] = set()
        self.connected = False

    def wake(self) -> None:
        """Something was committed: publish it now."""
        self._wake.set()

    async def run(self) -> None:
        """Publish for ever; wait for a broker or a database that is away."""
        limit_seconds = self._settings.connect_timeout_seconds
        while True:
            stack = AsyncExitStack()
            try:
                connecting = publishing_channel(self._settings, f"{TRACKER} outbox", limit_seconds)
                channel = await promptly(stack.enter_async_context(connecting), limit_seconds)
                self.connected = True
                self._outage.ended()
                await self._publish_for_ever(channel)
            except BROKER_AWAY as error:
                self._outage.began(error)
            finally:
                self.connected = False
                # A connection that does not answer any more is left to itself: its heartbeat will end it.
                with contextlib.suppress(*BROKER_AWAY):
                    await promptly(stack.aclose(), limit_seconds)
            await asyncio.sleep(self._settings.reconnect_seconds)

    async def _publish_for_ever(self, channel: Channel) -> None:
        """Until the channel is lost, be it while idle. Raises one of BROKER_AWAY then."""
        channel.closing.add_done_callback(lambda _: self._wake.set())
        while True:
            self._wake.clear()
            if channel.is_closed:
                raise ConnectionError("connection lost")
            while await self._publish_some(channel):
                pass
            if not await self._woken():
                self._untaken.clear()

    async def _woken(self) -> bool:
        """Whether there was a reason to look before it was time to look anyway."""
        try:
            async with asyncio.timeout(self._settings.outbox_sweep_seconds):
                await self._wake.wait()
        except TimeoutError:
            return False
        return True

    async def _publish_some(self, channel: Channel) -> bool:
        """Publish the oldest rows and forget those that were confirmed; says whether there may be more."""
        limit = self._settings.outbox_in_flight
        rows = [Outgoing(**row) for row in await self._waiting(limit)]
        if not rows:
            return False
        async with asyncio.timeout(self._settings.publish_timeout_seconds):
            results = await publish_confirmed(channel, [_publication(row) for row in rows])
        confirmed: list[Outgoing] = []
        failures: list[BaseException] = []
        for row, result in zip(rows, results, strict=True):
            if result is None:
                confirmed.append(row)
            elif isinstance(result, DeliveryError) or not isinstance(result, BROKER_AWAY):
                self._set_aside(row, result)
            else:
                failures.append(result)
        await self._forget(confirmed)
        if failures:
            raise failures[0]
        return len(rows) == limit

    def _set_aside(self, row: Outgoing, error: BaseException) -> None:
        """Keep what nobody takes until the next sweep, without holding up the others."""
        if len(self._untaken) >= self._settings.outbox_memory:
            self._untaken.clear()
        key = _key_of(row)
        self._untaken.add(key)
        if key not in self._complained:
            if len(self._complained) >= self._settings.outbox_memory:
                self._complained.clear()
            self._complained.add(key)
            log.error(
                "untaken_message",
                exchange=row.exchange,
                routing_key=row.routing_key,
                wire_name=row.wire_name,
                order_id=str(row.order_id),
                why=str(error),
            )

    async def _waiting(self, limit: int) -> list[dict[str, Any]]:
        return await self._database.rows_when_back(_READ, row_limit=limit, **_keys(self._untaken))

    async def _forget(self, confirmed: Sequence[Outgoing]) -> None:
        keys = {_key_of(row) for row in confirmed}
        self._complained -= keys
        while keys:
            try:
                async with self._database.transaction() as connection:
                    await connection.execute(_FORGET, _keys(keys))
                return
            except AWAY as error:
                await self._database.wait_until_back(error)


def _publication(row: Outgoing) -> Publication:
    fields = fields_of(
        fact_id=row.message_id,
        wire_name=row.wire_name,
        order_id=row.order_id,
        stated_by=row.stated_by,
        stated_at=row.stated_at,
        causation_id=row.causation_id,
        traceparent=row.traceparent,
    )
    return Publication(row.exchange, row.routing_key, fields, row.body)


def _key_of(row: Outgoing) -> Key:
    return row.message_id, row.exchange, row.routing_key


def _keys(keys: Collection[Key]) -> dict[str, Any]:
    names = [column.name for column in _KEY]
    return as_arrays(_KEY, [dict(zip(names, key, strict=True)) for key in keys])
