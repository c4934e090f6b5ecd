"""Watches the exchange for the ends of sagas, and notes when each arrived.

On aiormq itself, and without a look into the bodies: the load shares the machine with what it measures.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from uuid import uuid4

import aiormq
from aiormq.abc import ArgumentsType, DeliveredMessage

from events.facts.fulfillment import ShipmentDispatched
from events.facts.notification import CustomerNotified, NotificationFailed
from events.facts.order import OrderCancelled
from events.messaging.connection import BROKER_AWAY
from events.service import EXCHANGE

RECONNECT_SECONDS = 0.5
# Where a broker is stopped on purpose, that nobody answers is no news.
logging.getLogger("aiormq").setLevel(logging.CRITICAL)
LASTING_FOR_MS = 600_000
_NOTIFIED, _DISPATCHED, _CANCELLED = 1, 2, 4
_WATCHED: Mapping[str, int] = {
    CustomerNotified.wire_name: _NOTIFIED,
    NotificationFailed.wire_name: _NOTIFIED,
    ShipmentDispatched.wire_name: _DISPATCHED,
    OrderCancelled.wire_name: _CANCELLED,
}


class Completions:
    """When each order was cancelled or dispatched, and its customer notified (monotonic seconds)."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}
        self._ended: dict[str, float] = {}
        self._changed = asyncio.Event()
        self.notified_at: dict[str, float] = {}
        """When each order's customer was told, or could not be."""
        self.cancelled: set[str] = set()
        """Those of the ended that ended without effect."""
        self.on_end: Callable[[], None] = lambda: None
        """Called whenever an order has ended."""
        self.connection: aiormq.Connection | None = None
        """What it all arrives by."""
        self.received_at: dict[str, list[float]] = {}
        """When each of the further facts that `watch` was asked to watch arrived, by wire name."""

    @property
    def ended_at(self) -> dict[str, float]:
        """Orders whose saga is complete: the customer is told, and a confirmed order's goods are gone."""
        return self._ended

    def note(self, order_id: str, wire_name: str) -> None:
        """A fact arrived."""
        if wire_name not in _WATCHED:
            self.received_at.setdefault(wire_name, []).append(time.monotonic())
            return
        if _WATCHED[wire_name] == _NOTIFIED:
            self.notified_at.setdefault(order_id, time.monotonic())
        before = self._seen.get(order_id, 0)
        now = self._seen[order_id] = before | _WATCHED[wire_name]
        if now & _NOTIFIED and now & (_DISPATCHED | _CANCELLED) and order_id not in self._ended:
            self._ended[order_id] = time.monotonic()
            if now & _CANCELLED:
                self.cancelled.add(order_id)
            self._changed.set()
            self.on_end()

    async def wait_for(self, order_ids: Iterable[str], timeout_seconds: float) -> set[str]:
        """Wait until all have ended, or nothing did for `timeout_seconds`; answers those that did not."""
        missing = set(order_ids) - self._ended.keys()
        while missing:
            if not await self.next_end(timeout_seconds):
                return missing
            # Not at every single end: with many missing, that would take longer than the ends do.
            await asyncio.sleep(0.05)
            missing -= self._ended.keys()
        return missing

    async def next_end(self, timeout_seconds: float) -> bool:
        """Wait until another order has ended; whether one did in time."""
        self._changed.clear()
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True


@asynccontextmanager
async def watch(
    broker_url: str, *, also: Iterable[str] = (), lasting: bool = False
) -> AsyncIterator[Completions]:
    """Watch over a queue of our own, for as long as the context lasts; `also` are further facts to note.

    A `lasting` queue survives the broker's going away, at the price of more work for it.
    """
    completions = Completions()
    watcher = _Watcher(broker_url, completions, [*_WATCHED, *also], lasting)
    connection = await watcher.connect()
    task = asyncio.create_task(watcher.stay(connection), name="watch completions")
    try:
        yield completions
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


class _Watcher:
    def __init__(self, url: str, completions: Completions, keys: Iterable[str], lasting: bool) -> None:
        self._url = url
        self._completions = completions
        self._keys = keys
        self._lasting = lasting
        self._queue = f"bench.{uuid4().hex}"

    async def stay(self, connection: aiormq.Connection) -> None:
        """Connect again whenever the connection is lost. Cancel to end."""
        try:
            while True:
                await asyncio.wait([connection.closing])
                connection = await self._reconnect()
        finally:
            with contextlib.suppress(*BROKER_AWAY):
                await self._leave(connection)

    async def _leave(self, connection: aiormq.Connection) -> None:
        """Leave nothing behind: over a connection of its own, for the one at hand may be lost."""
        await connection.close()
        if self._lasting:
            async with aiormq.Connection(self._url) as last:
                await (await last.channel()).queue_delete(self._queue)

    async def _reconnect(self) -> aiormq.Connection:
        while True:
            with contextlib.suppress(*BROKER_AWAY):
                return await self.connect()
            await asyncio.sleep(RECONNECT_SECONDS)

    async def connect(self) -> aiormq.Connection:
        connection = aiormq.Connection(self._url)
        await connection.connect()
        channel = await connection.channel()
        arguments: ArgumentsType = {"x-expires": LASTING_FOR_MS} if self._lasting else {}
        await channel.queue_declare(
            self._queue, durable=self._lasting, exclusive=not self._lasting, arguments=arguments
        )
        for key in self._keys:
            await channel.queue_bind(self._queue, EXCHANGE, key)
        # What was sent and not read yet when the broker went away comes again.
        note = self._note_and_acknowledge if self._lasting else self._note
        await channel.basic_consume(self._queue, note, no_ack=not self._lasting)
        self._completions.connection = connection
        return connection

    async def _note_and_acknowledge(self, message: DeliveredMessage) -> None:
        await self._note(message)
        with contextlib.suppress(*BROKER_AWAY):
            await message.channel.basic_ack(message.delivery_tag or 0)

    async def _note(self, message: DeliveredMessage) -> None:
        order_id = message.header.properties.correlation_id
        self._completions.note(order_id or "", str(message.routing_key))
