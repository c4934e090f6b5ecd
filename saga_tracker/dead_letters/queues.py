"""Consumes every dead-letter queue over one channel, so that one acknowledgement covers a batch."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self

import aio_pika
from aiormq.abc import AbstractChannel, DeliveredMessage
from pamqp.commands import Basic

from events.messaging.connection import lasting_connection_url
from events.messaging.topology import TRACKER
from events.runtime.promptly import promptly
from events.service import PARKED_QUEUE
from saga_tracker.dead_letters.parked import as_before_parking, service_of
from saga_tracker.settings import TrackerSettings
from saga_tracker.steps import SERVICES


@dataclass(frozen=True, slots=True)
class Arrival:
    """A message, and the service whose dead-letter queue it was in, before the broker parked it perhaps."""

    service: str
    delivered: DeliveredMessage


class DeadLetterQueues:
    """All of these queues, as one; good until anything of it breaks.

    Entering it raises what aio-pika raises when the broker is away, or one of the queues.
    """

    def __init__(self, settings: TrackerSettings) -> None:
        self._settings = settings
        self._arrived: deque[Arrival] = deque()
        self._wake = asyncio.Event()
        self._broken: str | None = None
        self._keeps = False
        self._stack = AsyncExitStack()
        self._channel: AbstractChannel | None = None

    async def __aenter__(self) -> Self:
        await promptly(self._consume(), self._settings.connect_timeout_seconds)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A connection that does not answer any more is left to itself: its heartbeat will end it.
        with contextlib.suppress(TimeoutError, ConnectionError):
            await promptly(self._stack.aclose(), self._settings.connect_timeout_seconds)

    async def next_batch(self) -> list[Arrival]:
        """Whatever has arrived, within bounds. Raises ConnectionError when nothing more will."""
        while not self._arrived:
            if self._broken is not None:
                raise ConnectionError(self._broken)
            self._wake.clear()
            await self._wake.wait()
        batch = [self._arrived.popleft()]
        size_bytes = len(batch[0].delivered.body)
        while self._arrived and len(batch) < self._settings.dead_letter_batch_size:
            size_bytes += len(self._arrived[0].delivered.body)
            if size_bytes > self._settings.dead_letter_batch_bytes:
                break
            batch.append(self._arrived.popleft())
        return batch

    async def acknowledge(self, batch: Sequence[Arrival], kept: Sequence[Arrival] = ()) -> None:
        """Take a batch, and so all that arrived before it, off the queues; but not what is `kept` there.

        From the first letter that is kept on, no acknowledgement may cover more than one.
        """
        self._keeps = self._keeps or bool(kept)
        for arrival in batch if self._keeps else batch[-1:]:
            delivery = arrival.delivered.delivery
            if self._channel is None or not isinstance(delivery, Basic.Deliver) or not delivery.delivery_tag:
                raise ConnectionError("not consuming")
            if not any(arrival is one for one in kept):
                acknowledging = self._channel.basic_ack(delivery.delivery_tag, multiple=not self._keeps)
                await promptly(acknowledging, self._settings.connect_timeout_seconds)

    async def _consume(self) -> None:
        async with AsyncExitStack() as stack:
            connection = await stack.enter_async_context(
                await aio_pika.connect(
                    lasting_connection_url(self._settings),
                    client_properties={"connection_name": f"{TRACKER} dead letters"},
                    timeout=self._settings.connect_timeout_seconds,
                )
            )
            channel = await connection.channel(publisher_confirms=False)
            await channel.set_qos(prefetch_count=self._settings.dead_letter_prefetch)
            channel.close_callbacks.add(self._closed)
            self._channel = await channel.get_underlay_channel()
            self._channel.on_consumer_cancel_callbacks.add(self._closed)
            for service in SERVICES:
                await self._channel.basic_consume(f"{service}.dead-letters", partial(self._receive, service))
            await self._channel.basic_consume(PARKED_QUEUE, self._receive_parked)
            self._stack = stack.pop_all()

    async def _receive(self, service: str, delivered: DeliveredMessage) -> None:
        self._arrived.append(Arrival(service, delivered))
        self._wake.set()

    async def _receive_parked(self, delivered: DeliveredMessage) -> None:
        await self._receive(service_of(delivered), as_before_parking(delivered))

    def _closed(self, *_: Any) -> None:
        self._broken = "the consumer of the dead letters was closed"
        self._wake.set()
