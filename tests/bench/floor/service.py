"""A service of the floor: commits its input in batches, and publishes what follows from each."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Any
from uuid import UUID, uuid4

import aiormq
import psycopg
from aiormq import Channel
from aiormq.abc import AbstractChannel, DeliveredMessage
from pamqp.commands import Basic

from events.runtime.settings import ServiceSettings
from tests.bench.floor import saga
from tests.bench.floor.wiring import (
    Assignment,
    Connection,
    Input,
    default,
    input_of,
    report,
    until_input_ends,
)

PERSISTENT = 2
OWNER = 1


@dataclass(frozen=True, slots=True)
class Published:
    """A row of the outbox, on its way to the broker."""

    fact_id: UUID
    wire_name: str
    order_id: UUID
    cause: UUID
    stated_at: datetime


@dataclass(slots=True)
class Work:
    """What one batch comes to."""

    inserted: dict[UUID, str] = field(default_factory=dict)
    updated: dict[UUID, str] = field(default_factory=dict)
    published: list[Published] = field(default_factory=list)
    calls: list[Input] = field(default_factory=list)


class BareService:
    """Commits its input in batches, and publishes what follows from each."""

    def __init__(self, mine: Assignment) -> None:
        self._mine = mine
        self._steps = saga.STEPS[mine.name]
        self._table, columns = saga.STATES[mine.name]
        self._constants = {name: value for name, (_, value) in columns.items()}
        types = {"order_id": "uuid", "status": "text"} | {name: kind for name, (kind, _) in columns.items()}
        self._load = (
            f"SELECT {', '.join(types)} FROM {self._table}"
            " WHERE order_id = ANY(%(order_ids)b) ORDER BY order_id FOR UPDATE"
        ).encode()
        self._insert = saga.rows_from_arrays(self._table, types).encode()
        self._update = saga.update_from_arrays(self._table, types).encode()
        self._batch_size = default(ServiceSettings, "batch_size")
        self._waiting: deque[DeliveredMessage | Input] = deque()
        self._unpublished: deque[Published] = deque()
        self._confirmed: list[UUID] = []
        self._reported_more = asyncio.Event()
        self._published_more = asyncio.Event()
        self._confirmed_more = asyncio.Event()

    async def run(self) -> None:
        """Until standard input ends. Raises whatever goes wrong."""
        mine = self._mine
        consuming, publishing = [await aiormq.connect(mine.broker_url) for _ in range(2)]
        working, forgetting = [await psycopg.AsyncConnection.connect(mine.database_url) for _ in range(2)]
        channel = await consuming.channel()
        await channel.basic_qos(prefetch_count=default(ServiceSettings, "prefetch"))
        await channel.basic_consume(mine.queue, self._receive)
        relay = await publishing.channel(on_return_raises=True)
        assert isinstance(relay, Channel)
        await until_input_ends(
            self._place, self._work(working, channel), self._publish(relay), self._forget(forgetting)
        )
        for connection in (consuming, publishing):
            await connection.close()

    async def _receive(self, message: DeliveredMessage) -> None:
        self._waiting.append(message)
        self._reported_more.set()

    def _place(self, order_ids: Sequence[UUID]) -> None:
        self._waiting.extend(Input(saga.PLACE, uuid4(), order_id) for order_id in order_ids)
        self._reported_more.set()

    async def _work(self, connection: Connection, channel: AbstractChannel) -> None:
        while True:
            await self._reported_more.wait()
            self._reported_more.clear()
            while self._waiting:
                size = min(len(self._waiting), self._batch_size)
                entries = [self._waiting.popleft() for _ in range(size)]
                deliveries = [entry for entry in entries if not isinstance(entry, Input)]
                items = [entry if isinstance(entry, Input) else input_of(entry) for entry in entries]
                work = await self._commit(connection, items)
                self._unpublished.extend(work.published)
                self._published_more.set()
                # Whom they ask answers at once: what comes of it is part of a later batch.
                self._waiting.extend(work.calls)
                if deliveries:
                    await channel.basic_ack(deliveries[-1].delivery_tag or 0, multiple=True)

    async def _commit(self, connection: Connection, items: Sequence[Input]) -> Work:
        """One transaction in two round trips: it reads before it writes, though nothing hangs on it here."""
        facts = [item.cause for item in items if item.what in saga.BODIES]
        outcomes = [item.cause for item in items if item.what in _CALLS]
        stock = self._mine.name == "inventory"
        async with connection.pipeline():
            if facts:
                await connection.execute(saga.ENTER_INBOX.encode(), {"fact_ids": facts})
            if outcomes:
                await connection.execute(saga.SETTLE_CALLS.encode(), {"call_ids": outcomes})
            order_ids = sorted({item.order_id for item in items})
            await connection.execute(self._load, {"order_ids": order_ids})
            if stock:
                await connection.execute(saga.LOCK_STOCK.encode(), {"skus": [saga.SKU]})
        work = self._follow(items)
        async with connection.pipeline():
            for statement, rows in ((self._insert, work.inserted), (self._update, work.updated)):
                if rows:
                    await connection.execute(statement, self._rows(rows))
            if stock and (work.inserted or work.updated):
                moved = {"reserved": len(work.inserted), "sold": len(work.updated), "skus": [saga.SKU]}
                await connection.execute(saga.MOVE_STOCK.encode(), moved)
            if work.calls:
                await connection.execute(saga.CALL.encode(), _call_rows(work.calls))
            if work.published:
                await connection.execute(saga.STATE.encode(), _outbox_rows(work.published))
            await connection.commit()
        return work

    def _follow(self, items: Sequence[Input]) -> Work:
        work = Work()
        now = datetime.now(UTC)
        for item in items:
            step = self._steps[item.what]
            if step.write == "insert" or item.order_id in work.inserted:
                work.inserted[item.order_id] = step.status
            elif step.write == "update":
                work.updated[item.order_id] = step.status
            if step.fact is not None:
                work.published.append(Published(uuid4(), step.fact, item.order_id, item.cause, now))
            work.calls += [Input(call, uuid4(), item.order_id) for call in step.calls]
        return work

    def _rows(self, statuses: dict[UUID, str]) -> dict[str, list[Any]]:
        rows = {name: [value] * len(statuses) for name, value in self._constants.items()}
        return rows | {"order_id": list(statuses), "status": list(statuses.values())}

    async def _publish(self, channel: Channel) -> None:
        in_flight = default(ServiceSettings, "relay_in_flight")
        while True:
            await self._published_more.wait()
            self._published_more.clear()
            while self._unpublished:
                facts = list(islice(self._unpublished, in_flight))
                await asyncio.gather(*(self._publish_one(channel, fact) for fact in facts))
                for fact in facts:
                    self._unpublished.popleft()
                    self._confirmed.append(fact.fact_id)
                self._confirmed_more.set()
                report([fact.order_id for fact in facts if fact.wire_name in saga.ENDINGS])

    async def _publish_one(self, channel: Channel, fact: Published) -> None:
        order_id = str(fact.order_id)
        properties = Basic.Properties(
            content_type="application/json",
            delivery_mode=PERSISTENT,
            message_id=str(fact.fact_id),
            message_type=fact.wire_name,
            app_id=self._mine.name,
            correlation_id=order_id,
            timestamp=fact.stated_at,
            headers={
                "order_id": order_id,
                "stated_at": fact.stated_at.isoformat(),
                "causation_id": str(fact.cause),
                "traceparent": saga.TRACEPARENT,
            },
        )
        await channel.basic_publish(
            _BODIES[fact.wire_name],
            exchange=self._mine.exchange,
            routing_key=fact.wire_name,
            properties=properties,
            mandatory=True,
            wait=False,
        )

    async def _forget(self, connection: Connection) -> None:
        pause_seconds = default(ServiceSettings, "forget_after_seconds")
        while True:
            await self._confirmed_more.wait()
            await asyncio.sleep(pause_seconds)
            self._confirmed_more.clear()
            fact_ids, self._confirmed = self._confirmed, []
            async with connection.pipeline():
                await connection.execute(saga.NO_FSYNC.encode())
                await connection.execute(saga.FORGET.encode(), {"fact_ids": fact_ids})
                await connection.commit()


_CALLS = frozenset(call for steps in saga.STEPS.values() for step in steps.values() for call in step.calls)
_BODIES = {wire_name: body.encode() for wire_name, body in saga.BODIES.items()}


def _call_rows(calls: Sequence[Input]) -> dict[str, list[Any]]:
    return {
        "call_id": [call.cause for call in calls],
        "owner": [OWNER] * len(calls),
        "name": [call.what for call in calls],
        "order_id": [call.order_id for call in calls],
        "request": [saga.REQUEST] * len(calls),
        "traceparent": [saga.TRACEPARENT] * len(calls),
    }


def _outbox_rows(facts: Sequence[Published]) -> dict[str, list[Any]]:
    return {
        "fact_id": [fact.fact_id for fact in facts],
        "owner": [OWNER] * len(facts),
        "wire_name": [fact.wire_name for fact in facts],
        "order_id": [fact.order_id for fact in facts],
        "body": [saga.BODIES[fact.wire_name] for fact in facts],
        "stated_at": [fact.stated_at for fact in facts],
        "causation_id": [fact.cause for fact in facts],
        "traceparent": [saga.TRACEPARENT] * len(facts),
    }
