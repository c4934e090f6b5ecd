"""Watches the exchange for the ends of sagas, and notes when each arrived."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aio_pika
from aio_pika.abc import AbstractIncomingMessage

from events.facts.fulfillment import ShipmentDispatched
from events.facts.notification import CustomerNotified, NotificationFailed
from events.facts.order import OrderCancelled
from events.service import EXCHANGE

PREFETCH = 1_000
_WATCHED = (OrderCancelled, ShipmentDispatched, CustomerNotified, NotificationFailed)


class Completions:
    """When each order was cancelled or dispatched, and its customer told (monotonic seconds)."""

    def __init__(self) -> None:
        self._at: dict[str, dict[str, float]] = {}
        self._ended: dict[str, float] = {}
        self._changed = asyncio.Event()

    @property
    def ended_at(self) -> dict[str, float]:
        """Orders whose saga is complete: the customer is told, and a confirmed order's goods are gone."""
        return self._ended

    def note(self, order_id: str, wire_name: str) -> None:
        seen = self._at.setdefault(order_id, {})
        seen.setdefault(wire_name, time.monotonic())
        told = CustomerNotified.wire_name in seen or NotificationFailed.wire_name in seen
        gone = ShipmentDispatched.wire_name in seen or OrderCancelled.wire_name in seen
        if told and gone and order_id not in self._ended:
            self._ended[order_id] = max(seen.values())
            self._changed.set()

    async def wait_for(self, order_ids: set[str], timeout_seconds: float) -> set[str]:
        """Wait until all have ended, or nothing did for `timeout_seconds`; answers those that did not."""
        while missing := order_ids - self._ended.keys():
            if not await self.next_end(timeout_seconds):
                return missing
        return set()

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
async def watch(broker_url: str) -> AsyncIterator[Completions]:
    """Watch over a queue of our own, for as long as the context lasts."""
    completions = Completions()

    async def note(message: AbstractIncomingMessage) -> None:
        completions.note(str(message.headers["order_id"]), message.type or "")

    async with await aio_pika.connect(broker_url) as connection, connection.channel() as channel:
        await channel.set_qos(PREFETCH)
        queue = await channel.declare_queue(exclusive=True, auto_delete=True)
        for fact in _WATCHED:
            await queue.bind(EXCHANGE, fact.wire_name)
        await queue.consume(note, no_ack=True)
        yield completions
