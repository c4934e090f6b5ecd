"""Takes dead letters off their queues: acknowledged only once they are committed.

Several trackers may do so side by side. A letter that comes again after a crash is known by its id.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psycopg

from events.messaging.connection import BROKER_AWAY, lost_means_away
from events.runtime.crash import crash_point
from events.storage.database import AWAY, BEYOND_LIMITS, CONTENTION, Database, spares_the_row
from events.telemetry.log import Outage, log
from saga_tracker.dead_letters import store
from saga_tracker.dead_letters.dead_letter import DeadLetter, bare_letter, read_letter
from saga_tracker.dead_letters.queues import Arrival, DeadLetterQueues
from saga_tracker.settings import TrackerSettings

# How many times longer than it took to look for cases that are over it waits before it looks again.
IDLE_FACTOR = 20

Reader = Callable[[Arrival], DeadLetter]


@dataclass(frozen=True, slots=True)
class _Stored:
    """What came of letters: how many of them were new, and which will not be stored."""

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
        """Take in letters for ever; wait for a broker or a database that is away, or is not migrated yet."""
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
        """Close the letters of cases that are over, for ever: now and then, whatever happened meanwhile."""
        while True:
            began = time.monotonic()
            try:
                async with self._database.transaction() as connection:
                    closed = await store.close_cases(connection)
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
            stored = await self._store(batch, _read)
            crash_point("before_ack")
            await queues.acknowledge(batch, stored.refused)
            self._failure.ended()
            known = len(batch) - stored.new - len(stored.refused)
            log.info("dead_letters_stored", new=stored.new, known=known)

    async def _store(self, batch: Sequence[Arrival], read: Reader) -> "_Stored":
        """Commit letters; of one that will not go in as it is, only what came.

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
                    await self._store(batch[:middle], read),
                    await self._store(batch[middle:], read),
                )
                return _Stored(first.new + second.new, [*first.refused, *second.refused])
            if read is not _read:
                log.error("dead_letter_set_aside", service=batch[0].service, exc_info=error)
                return _Stored(0, batch)
            log.error("unreadable_dead_letter", service=batch[0].service, why=repr(error))
            why = error
        return await self._store(batch, lambda arrival: bare_letter(arrival.delivered, arrival.service, why))

    async def _commit(self, dead_letters: Sequence[DeadLetter]) -> int:
        while True:
            try:
                async with self._database.transaction() as connection:
                    return await store.enter(connection, dead_letters)
            except BEYOND_LIMITS:
                raise
            except CONTENTION:
                continue
            except AWAY as error:
                await self._database.wait_until_back(error)


def _read(arrival: Arrival) -> DeadLetter:
    return read_letter(arrival.delivered, arrival.service)
