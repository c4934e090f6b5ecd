"""Publishes the outbox: at once after each commit, and again after a crash, until the broker confirms."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from uuid import UUID

from aio_pika.exceptions import PublishError
from aiormq import Channel
from sqlalchemy import bindparam, delete, not_, select

from events.messaging.connection import BROKER_AWAY, broker_user, lost_means_away
from events.messaging.envelope import fields_of
from events.messaging.publisher import Publication, publish_confirmed, publishing_channel
from events.runtime.crash import crash_point
from events.runtime.database import AWAY, Database
from events.runtime.exchange import BEGIN, COMMIT, Exchange, prepared
from events.runtime.instance import Instance
from events.runtime.log import Outage, log
from events.runtime.settings import ServiceSettings
from events.runtime.sql import array_of, compiled
from events.runtime.tables import outbox
from events.service import EXCHANGE


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """A stated fact on its way to the broker."""

    fact_id: UUID
    wire_name: str
    order_id: UUID
    body: str
    stated_at: datetime
    causation_id: UUID | None
    traceparent: str | None


_COLUMNS = [outbox.c[name] for name in OutboxRow.__slots__]
_READ = compiled(
    select(*_COLUMNS)
    .where(
        outbox.c.owner == bindparam("me"),
        not_(outbox.c.fact_id == array_of("known", outbox.c.fact_id).any_()),
    )
    .order_by(outbox.c.stated_at)
    .limit(bindparam("row_limit"))
)
_FORGET = prepared(delete(outbox).where(outbox.c.fact_id == array_of("fact_ids", outbox.c.fact_id).any_()))
# Losing this commit in a crash of the server only means that confirmed facts are published once more.
_NO_FSYNC = prepared("SET LOCAL synchronous_commit = off")


class Relay:
    """One publisher per process, with its own connection to the broker."""

    def __init__(
        self, settings: ServiceSettings, database: Database, instance: Instance, service: str
    ) -> None:
        self._settings = settings
        self._database = database
        self._instance = instance
        self._service = service
        self._user = broker_user(settings)
        self._outage = Outage("broker, for publishing")
        self._waiting: dict[UUID, OutboxRow] = {}
        self._unheard: dict[UUID, OutboxRow] = {}
        self._confirmed: list[UUID] = []
        self._complained: set[UUID] = set()
        self._forgetting = asyncio.Lock()
        self._some_confirmed = asyncio.Event()
        self._more_in_table = False
        self._spilled = 0
        self._wake = asyncio.Event()
        self.connected = False

    @property
    def idle(self) -> bool:
        """Whether everything handed over so far is confirmed and forgotten, but for what nobody hears."""
        return not self._waiting and not self._more_in_table and not self._confirmed

    @property
    def backlog(self) -> int:
        """How many committed facts are not published yet, as far as this instance knows."""
        return len(self._waiting) + len(self._unheard) + self._spilled

    def hand_over(self, rows: Sequence[OutboxRow]) -> None:
        """Take committed rows; past the memory bound they stay in the table until there is room."""
        if self._more_in_table or len(self._waiting) + len(rows) > self._settings.relay_memory:
            self._more_in_table = True
            self._spilled += len(rows)
        else:
            self._waiting.update((row.fact_id, row) for row in rows)
        self._wake.set()

    def look_in_table(self) -> None:
        """Look for own rows that were committed without being handed over."""
        self._more_in_table = True
        self._wake.set()

    async def run(self) -> None:
        """Publish for ever; wait for a broker that is away."""
        while True:
            try:
                with lost_means_away():
                    await self._publish_over_one_connection()
            except BROKER_AWAY as error:
                self._outage.began(error)
            finally:
                self.connected = False
            await asyncio.sleep(self._settings.reconnect_seconds)

    async def _publish_over_one_connection(self) -> None:
        """Until it is lost. Raises one of BROKER_AWAY then."""
        connect_timeout_seconds = self._settings.broker_connect_timeout_seconds
        name = f"{self._service} relay"
        async with publishing_channel(self._settings, name, connect_timeout_seconds) as channel:
            self.connected = True
            self._outage.ended()
            await self._publish_for_ever(channel)

    async def sweep(self) -> None:
        """Adopt what dead instances left, and try again what nobody heard: periodically."""
        while True:
            await self.adopt()
            self._try_unheard_again()
            await asyncio.sleep(self._settings.sweep_seconds)

    async def adopt(self) -> None:
        """Take over what dead instances left; from now on it counts as this one's backlog."""
        if adopted := await self._instance.adopt(self._database, outbox):
            self._spilled += adopted
            self.look_in_table()

    async def forget(self) -> None:
        """Delete confirmed rows, in bulk: a moment's worth at a time."""
        while True:
            await self._some_confirmed.wait()
            await asyncio.sleep(self._settings.forget_after_seconds)
            self._some_confirmed.clear()
            await self._forget_confirmed()

    async def _publish_for_ever(self, channel: Channel) -> None:
        """Until the channel is lost, be it while idle. Raises one of BROKER_AWAY then."""
        channel.closing.add_done_callback(lambda _: self._wake.set())
        self._wake.set()  # for what the connection before this one left unconfirmed
        while True:
            await self._wake.wait()
            self._wake.clear()
            if channel.is_closed:
                raise ConnectionError("connection lost")
            while self._waiting or self._more_in_table:
                if not self._waiting:
                    await self._refill()
                await self._publish(
                    channel, list(islice(self._waiting.values(), self._settings.relay_in_flight))
                )

    async def _refill(self) -> None:
        """Read what is in the table only. What is confirmed must be gone from there first."""
        await self._forget_confirmed()
        self._more_in_table = False
        limit = self._settings.relay_memory
        found = await self._database.rows_when_back(
            _READ, me=self._instance.number, known=list(self._unheard), row_limit=limit
        )
        self._more_in_table = self._more_in_table or len(found) == limit
        self._spilled = max(0, self._spilled - len(found)) if self._more_in_table else 0
        self._waiting.update((row["fact_id"], OutboxRow(**row)) for row in found)

    async def _publish(self, channel: Channel, rows: list[OutboxRow]) -> None:
        """Publish all at once and note which are confirmed. Raises when the connection is no good."""
        async with asyncio.timeout(self._settings.publish_timeout_seconds):
            results = await publish_confirmed(channel, [self._publication(row) for row in rows])
        failures: list[BaseException] = []
        for row, result in zip(rows, results, strict=True):
            if result is None:
                del self._waiting[row.fact_id]
                self._complained.discard(row.fact_id)
                self._confirmed.append(row.fact_id)
            elif isinstance(result, PublishError) and len(self._unheard) < self._settings.relay_memory:
                self._set_aside(self._waiting.pop(row.fact_id), result)
            else:
                failures.append(result)
        self._some_confirmed.set()
        if failures:
            raise next((error for error in failures if not isinstance(error, BROKER_AWAY)), failures[0])
        crash_point("after_publish")

    def _publication(self, row: OutboxRow) -> Publication:
        fields = fields_of(
            fact_id=row.fact_id,
            wire_name=row.wire_name,
            order_id=row.order_id,
            stated_by=self._service,
            stated_at=row.stated_at,
            causation_id=row.causation_id,
            traceparent=row.traceparent,
        )
        fields["user_id"] = self._user
        return Publication(EXCHANGE, row.wire_name, fields, row.body)

    def _set_aside(self, row: OutboxRow, error: PublishError) -> None:
        """Keep a fact that no queue is bound to, without holding up the others."""
        self._unheard[row.fact_id] = row
        if row.fact_id not in self._complained:
            self._complained.add(row.fact_id)
            log.error("unroutable_fact", wire_name=row.wire_name, order_id=str(row.order_id), why=str(error))

    def _try_unheard_again(self) -> None:
        if self._unheard:
            self._waiting.update(self._unheard)
            self._unheard.clear()
            self._wake.set()

    async def _forget_confirmed(self) -> None:
        async with self._forgetting:
            count = len(self._confirmed)
            while count:
                try:
                    async with self._database.transaction() as connection:
                        exchange = Exchange(connection)
                        exchange.ask(BEGIN)
                        exchange.ask(_NO_FSYNC)
                        exchange.ask(_FORGET, fact_ids=self._confirmed[:count])
                        exchange.ask(COMMIT)
                        await exchange.over()
                    break
                except AWAY as error:
                    await self._database.wait_until_back(error)
            if count:
                del self._confirmed[:count]
                crash_point("after_forget")
