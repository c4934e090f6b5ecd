"""Takes dead letters off their queues: acknowledged only once they are committed.

Several trackers may do so side by side. A dead letter that comes again after a crash is known by its id.
"""

import asyncio
import contextlib
import copy
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self

import aio_pika
import psycopg
from aiormq.abc import AbstractChannel, DeliveredMessage
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from events.messaging.connection import BROKER_AWAY, lasting_connection_url, lost_means_away
from events.messaging.topology import TRACKER
from events.runtime.crash import crash_point
from events.runtime.loops import promptly
from events.service import PARKED_QUEUE
from events.storage.database import AWAY, BEYOND_LIMITS, CONTENTION, Database, spares_the_row
from events.telemetry.log import Outage, log
from events.telemetry.redaction import named
from saga_tracker.dead_letters import repository
from saga_tracker.dead_letters.dead_letter import DeadLetter, bare_dead_letter, read_dead_letter
from saga_tracker.settings import TrackerSettings
from saga_tracker.steps import SERVICES

# A dead letter that the broker gave up delivering: whose it is, and as its own queue had it.
#
# It may have been stored before it was parked, and only its acknowledgement was lost. So what the broker
# noted about the parking is taken off again, or it would be another dead letter.

UNKNOWN_SERVICE = "unknown"
QUEUES = ".dead-letters"
DEATHS = "x-death"
# Of the first death, and on RabbitMQ 4 of the last one too, the broker keeps these apart.
NOTES = ("x-first-death-", "x-last-death-")
NOTED = ("reason", "queue", "exchange")


def service_of(delivered: DeliveredMessage) -> str:
    """Whose dead letter it was, by the broker's word. What nobody parked but a person has no service."""
    death = _parking_of(_headers_of(delivered))
    return str(death["queue"]).removesuffix(QUEUES) if death is not None else UNKNOWN_SERVICE


def as_before_parking(delivered: DeliveredMessage) -> DeliveredMessage:
    """The message as it was in its service's dead-letter queue."""
    headers = _headers_of(delivered)
    death = _parking_of(headers)
    if death is None:
        return delivered
    keys = death["routing-keys"]
    properties = copy.copy(delivered.header.properties)
    properties.headers = _headers_before(headers, keys[1:])
    # It is moved aside by the broker, for the queue behind must not let the message expire.
    properties.expiration = death.get("original-expiration") or properties.expiration
    return DeliveredMessage(
        delivery=Basic.Deliver(
            consumer_tag=delivered.consumer_tag,
            delivery_tag=delivered.delivery_tag,
            redelivered=bool(delivered.redelivered),
            exchange=str(death.get("exchange")),
            routing_key=keys[0],
        ),
        header=ContentHeader(delivered.header.weight, delivered.header.body_size, properties),
        body=delivered.body,
        channel=delivered.channel,
    )


def _headers_of(delivered: DeliveredMessage) -> dict[str, Any]:
    return dict(delivered.header.properties.headers or {})


def _parking_of(headers: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The broker's note of the parking, which stands before any other."""
    deaths = headers.get(DEATHS)
    if not isinstance(deaths, list) or not deaths or not isinstance(deaths[0], dict):
        return None
    death: Mapping[str, Any] = deaths[0]
    keys = death.get("routing-keys")
    known = str(death.get("queue")).endswith(QUEUES) and isinstance(keys, list) and keys
    return death if known else None


def _headers_before(headers: Mapping[str, Any], carbon_copies: list[Any]) -> dict[str, Any]:
    before, earlier = dict(headers), headers[DEATHS][1:]
    if earlier:
        before[DEATHS] = earlier
    else:
        del before[DEATHS]
    for prefix in NOTES:
        if not str(headers.get(f"{prefix}queue")).endswith(QUEUES):
            continue
        for name in NOTED:
            before.pop(prefix + name, None)
            # The parking was the last one, and the first one only where there was none before.
            if earlier and isinstance(earlier[0], dict) and name in earlier[0]:
                before[prefix + name] = earlier[0][name]
    if carbon_copies:
        # Addresses for copies, which the broker takes off when it gives a message another key.
        before["CC"] = carbon_copies
    return before


# --- Consumes every dead-letter queue over one channel, so that one acknowledgement covers a batch


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

        From the first dead letter that is kept on, no acknowledgement may cover more than one.
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


# How many times longer than it took to look for cases that are over it waits before it looks again.
IDLE_FACTOR = 20

Reader = Callable[[Arrival], DeadLetter]


@dataclass(frozen=True, slots=True)
class _Stored:
    """What came of dead letters: how many of them were new, and which will not be stored."""

    new: int
    refused: Sequence[Arrival] = ()


class Ingest:
    """The task that stores dead letters, and closes cases once they are over."""

    def __init__(self, settings: TrackerSettings, database: Database) -> None:
        self.consuming = False
        self._settings = settings
        self._database = database
        self._broker_outage = Outage("broker, for taking in dead letters")
        self._failure = Outage("taking in dead letters")
        self._closing_failure = Outage("closing cases")

    async def run(self) -> None:
        """Take in dead letters; wait for a broker or a database that is away, or is not migrated yet."""
        while True:
            try:
                with lost_means_away():
                    async with DeadLetterQueues(self._settings) as queues:
                        self._broker_outage.ended()
                        self.consuming = True
                        await self._take_in(queues)
            except BROKER_AWAY as error:
                self._broker_outage.began(error)
            except psycopg.Error as error:
                # What is not stored stays on its queue, and is tried again.
                if not self._failure.ongoing:
                    log.error("ingest_failed", exc_info=error)
                self._failure.began(error)
            finally:
                self.consuming = False
            await asyncio.sleep(self._settings.reconnect_seconds)

    async def close_cases(self) -> None:
        """Close the dead letters of cases that are over, now and then, whatever happened meanwhile."""
        while True:
            began = time.monotonic()
            try:
                async with self._database.transaction() as connection:
                    closed = await repository.close_cases(connection)
                self._closing_failure.ended()
                if closed:
                    log.info("cases_closed", dead_letters=closed)
            except CONTENTION:
                log.debug("cases_wait_for_another_writer")
            except AWAY as error:
                await self._database.wait_until_back(error)
            except psycopg.Error as error:
                self._closing_failure.began(error)
            # The many cases of a mail server that is down must not keep the database busy.
            spent_seconds = time.monotonic() - began
            await asyncio.sleep(max(self._settings.close_cases_seconds, spent_seconds * IDLE_FACTOR))

    async def _take_in(self, queues: DeadLetterQueues) -> None:
        while True:
            batch = await queues.next_batch()
            stored = await self._save(batch, _read)
            crash_point("before_ack")
            await queues.acknowledge(batch, stored.refused)
            self._failure.ended()
            known = len(batch) - stored.new - len(stored.refused)
            log.info("dead_letters_stored", new=stored.new, known=known)

    async def _save(self, batch: Sequence[Arrival], read: Reader) -> "_Stored":
        """Commit dead letters; of one that will not go in as it is, only what came.

        One that will not go in like that either stays on its queue, for the next connection to try again.
        """
        try:
            return _Stored(await self._commit([read(arrival) for arrival in batch]))
        except Exception as error:
            if spares_the_row(error):
                raise
            if len(batch) > 1:
                middle = len(batch) // 2
                first, second = (
                    await self._save(batch[:middle], read),
                    await self._save(batch[middle:], read),
                )
                return _Stored(first.new + second.new, [*first.refused, *second.refused])
            if read is not _read:
                log.error("dead_letter_set_aside", service=batch[0].service, exc_info=error)
                return _Stored(0, batch)
            log.error("unreadable_dead_letter", service=batch[0].service, why=named(error))
            why = error
        return await self._save(
            batch, lambda arrival: bare_dead_letter(arrival.delivered, arrival.service, why)
        )

    async def _commit(self, dead_letters: Sequence[DeadLetter]) -> int:
        while True:
            try:
                async with self._database.transaction() as connection:
                    return await repository.enter(connection, dead_letters)
            except BEYOND_LIMITS:
                raise
            except CONTENTION:
                continue
            except AWAY as error:
                await self._database.wait_until_back(error)


def _read(arrival: Arrival) -> DeadLetter:
    return read_dead_letter(arrival.delivered, arrival.service)
