"""The tracker of the floor: reads the stream in batches, and writes the rows that the tracker writes."""

import asyncio
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import aiormq
import psycopg
from aiormq.abc import AbstractChannel, DeliveredMessage

from saga_tracker.settings import TrackerSettings
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


class BareTracker:
    """Reads the stream in batches, and writes what the tracker writes."""

    def __init__(self, mine: Assignment) -> None:
        self._mine = mine
        self._arrived: deque[DeliveredMessage] = deque()
        self._more = asyncio.Event()

    async def run(self) -> None:
        """Until standard input ends. Raises whatever goes wrong."""
        reading = await aiormq.connect(self._mine.broker_url)
        database = await psycopg.AsyncConnection.connect(self._mine.database_url)
        channel = await reading.channel()
        await channel.basic_qos(prefetch_count=default(TrackerSettings, "prefetch"))
        await channel.basic_consume(self._mine.queue, self._receive, arguments={"x-stream-offset": "first"})
        await until_input_ends(lambda _: None, self._work(database, channel))
        await reading.close()

    async def _receive(self, message: DeliveredMessage) -> None:
        self._arrived.append(message)
        self._more.set()

    async def _work(self, connection: Connection, channel: AbstractChannel) -> None:
        batch_size = default(TrackerSettings, "batch_size")
        settle_every = default(TrackerSettings, "prefetch") // 4
        unsettled = 0
        while True:
            await self._more.wait()
            self._more.clear()
            while self._arrived:
                size = min(len(self._arrived), batch_size)
                messages = [self._arrived.popleft() for _ in range(size)]
                await self._commit(connection, messages)
                unsettled += size
                if unsettled >= settle_every:
                    unsettled = 0
                    await channel.basic_ack(messages[-1].delivery_tag or 0, multiple=True)
                if size < batch_size:
                    await asyncio.sleep(default(TrackerSettings, "pause_seconds"))

    async def _commit(self, connection: Connection, messages: Sequence[DeliveredMessage]) -> None:
        items = [input_of(message) for message in messages]
        last = {item.order_id: item.what for item in items}
        async with connection.pipeline():
            for statement in (*saga.BECOME_WRITER, saga.POSITION):
                await connection.execute(statement.encode())
        async with connection.pipeline():
            await connection.execute(saga.ENTER_FACTS.encode(), _fact_rows(items, messages))
            await connection.execute(saga.FACTS_OF.encode(), {"order_ids": sorted(last)})
        compared = sorted(item.order_id for item in items if item.what == saga.COMPARED_AFTER)
        async with connection.pipeline():
            await connection.execute(saga.SHOW.encode(), _saga_rows(last))
            if compared:
                await connection.execute(saga.COMPARE_LATER.encode(), {"order_ids": compared})
            header = messages[-1].header.properties
            position = {"stream_offset": _offset_of(messages[-1]), "message_id": header.message_id}
            await connection.execute(saga.MOVE.encode(), position)
            await connection.commit()
        report([item.order_id for item in items if item.what in saga.ENDINGS])


def _offset_of(message: DeliveredMessage) -> Any:
    return (message.header.properties.headers or {})["x-stream-offset"]


def _fact_rows(items: Sequence[Input], messages: Sequence[DeliveredMessage]) -> dict[str, list[Any]]:
    properties = [message.header.properties for message in messages]
    return {
        "order_id": [item.order_id for item in items],
        "fact_id": [item.cause for item in items],
        "wire_name": [item.what for item in items],
        "stated_by": [known.app_id for known in properties],
        "causation_id": [UUID(str((known.headers or {})["causation_id"])) for known in properties],
        "stated_at": [known.timestamp for known in properties],
        "dated": [True] * len(items),
        "traceparent": [saga.TRACEPARENT] * len(items),
        "stream_offset": [_offset_of(message) for message in messages],
        "body": [message.body.decode() for message in messages],
    }


def _saga_rows(last: dict[UUID, str]) -> dict[str, list[Any]]:
    now = datetime.now(UTC)
    shown = {wire_name: saga.saga_row(wire_name, now) for wire_name in set(last.values())}
    rows = [shown[wire_name] for wire_name in last.values()]
    return {name: [row[name] for row in rows] for name in rows[0]} | {"order_id": list(last)}
