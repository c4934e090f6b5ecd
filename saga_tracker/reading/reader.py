"""Keeps the view up with the stream: whatever has arrived since the last commit is the next batch."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

import psycopg

from events.messaging.connection import BROKER_AWAY, lost_means_away
from events.runtime.loops import promptly
from events.storage.database import AWAY, BEYOND_LIMITS, CONTENTION, Connection, Database, spares_the_row
from events.telemetry.log import Outage, log
from events.telemetry.redaction import in_words, named
from saga_tracker import metrics
from saga_tracker.availability import Availability
from saga_tracker.reading import gaps, repository
from saga_tracker.reading.batch import ReadBatch, UnreadableMessage
from saga_tracker.reading.recorder import Recorded, Recorder
from saga_tracker.reading.repository import AnotherWrites, Position, ReadAnew
from saga_tracker.reading.stream import Arrived, Subscription, offset_of, read_batch, storable, unreadable_of
from saga_tracker.settings import TrackerSettings

T = TypeVar("T")

_LOOK_AGAIN_SECONDS = 0.02


@dataclass(slots=True)
class Progress:
    """How the reader is doing. `known_end` is the last offset that is known of; None before the first look.

    `never_read`: which facts the stream had lost before they were read, if any.
    """

    reading: bool = False
    stream_offset: int = -1
    known_end: int | None = None
    never_read: str | None = None

    @property
    def lag(self) -> int:
        """About how many messages of the stream are not in the view yet, as far as is known."""
        return self.behind(self.stream_offset)

    @property
    def at_end(self) -> bool:
        """Whether it reads and knows of no more."""
        return self.reading and self.known_end is not None and not self.lag

    def behind(self, stream_offset: int) -> int:
        """About how many messages come after this one."""
        return 0 if self.known_end is None else max(0, self.known_end - stream_offset)

    def looked_at_end(self, end: int | None) -> None:
        """What a look found; None if no message came in time. Empty is only a stream that had none before."""
        if end is not None:
            self.reaches_to(end)
        elif self.stream_offset < 0:
            self.reaches_to(-1)

    def reaches_to(self, stream_offset: int) -> None:
        """The stream has at least this message."""
        self.known_end = stream_offset if self.known_end is None else max(self.known_end, stream_offset)


class Reader:
    """The one task that writes the view."""

    def __init__(self, settings: TrackerSettings, database: Database, availability: Availability) -> None:
        self.progress = Progress()
        self._availability = availability
        self._settings = settings
        self._database = database
        self._recorder = Recorder(settings.deadline_rules, settings.remembered_sagas)
        self._broker_outage = Outage("broker, for reading the stream")
        self._held_up = Outage("the right to write the view")
        self._failure = Outage("the reader's work")
        self._stream: Subscription | None = None
        self._has_stream = asyncio.Event()

    async def run(self) -> None:
        """Read for ever; wait for a broker or a database that is away, or is not what it should be yet."""
        while True:
            try:
                with lost_means_away():
                    await self._read_from(await self._position())
            except ReadAnew:
                log.info("reading_anew", read_up_to=self.progress.stream_offset)
                continue
            except BROKER_AWAY as error:
                self._broker_outage.began(error)
            except psycopg.Error as error:
                # Such as a table that is missing: somebody will migrate.
                if not self._failure.ongoing:
                    log.error("reader_failed", exc_info=error)
                self._failure.began(error)
            finally:
                self.progress.reading = False
            await asyncio.sleep(self._settings.reconnect_seconds)

    async def measure_lag(self) -> None:
        """Look at the stream's end now and then, for ever; a broker that does not answer is away."""
        while True:
            await self._has_stream.wait()
            if (stream := self._stream) is not None:
                try:
                    # So that a stop does not wait for the answer.
                    end = await promptly(stream.known_end(), self._probe_seconds)
                    self.progress.looked_at_end(end)
                except BROKER_AWAY as error:
                    stream.give_up(error)
            await asyncio.sleep(self._settings.lag_probe_seconds)

    @property
    def _probe_seconds(self) -> float:
        """Longer than a look at the stream's end takes by its own bounds."""
        return 3 * self._settings.connect_timeout_seconds + self._settings.stream_answer_seconds

    async def catch_up(self) -> int | None:
        """Wait until all that was published by now is in the view; answers up to which offset that is.

        None when that is not known: the broker is away, or the reader is far behind.
        """
        stream = self._stream
        if stream is None:
            return None
        deadline = time.monotonic() + self._settings.interrupted_after_seconds
        await asyncio.sleep(self._settings.stream_delay_seconds)
        end = await self._sent_by_now(stream)
        while end is not None and self.progress.stream_offset < end:
            if self._stream is not stream or time.monotonic() > deadline:
                return None
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)
        return end if self._stream is stream else None

    async def has_caught_up(self) -> bool:
        """Whether the view has all but a batch of what the broker has sent; does not wait for that."""
        stream, settings = self._stream, self._settings
        if stream is None or not self.progress.reading or self.progress.lag > settings.batch_size:
            return False
        asked_at = time.monotonic()
        end = await self._sent_by_now(stream)
        # An answer that took long came behind messages that took as long.
        in_time = time.monotonic() - asked_at < settings.interrupted_after_seconds
        return in_time and end is not None and end - self.progress.stream_offset <= settings.batch_size

    async def _sent_by_now(self, stream: Subscription) -> int | None:
        """As the stream has it; None, too, when the broker does not answer: then it is away."""
        try:
            return await stream.sent_by_now()
        except BROKER_AWAY as error:
            stream.give_up(error)
            return None

    async def consumers_of(self, queues: Sequence[str]) -> Mapping[str, int]:
        """How many consume each of these, as far as the broker says; nothing while it is away."""
        stream = self._stream
        if stream is None:
            return {}
        with contextlib.suppress(*BROKER_AWAY):
            return await stream.consumers_of(queues)
        return {}

    @property
    def queues(self) -> Mapping[str, tuple[int, int]]:
        """Of the queues that were asked for: how many consume each and how many messages wait in it."""
        return self._stream.queues if self._stream is not None and self.progress.reading else {}

    async def _read_from(self, position: Position) -> None:
        known = position.stream_offset if position.stream_offset >= 0 else None
        async with Subscription(self._settings, known) as stream:
            self.progress.stream_offset, self.progress.known_end = position.stream_offset, None
            if known is not None:
                await self._find_again(stream, position)
            self._broker_outage.ended()
            self.progress.reading = True
            self._stream = stream
            self._has_stream.set()
            try:
                while True:
                    messages = await stream.next_batch()
                    self.progress.reaches_to(stream.last_offset)
                    await self._notice_gap(stream, messages, position)
                    await self._record(messages, position.reading)
                    await stream.settle()
                    # Nobody waits for the view: a moment's pause makes one transaction of many facts.
                    if len(messages) < self._settings.batch_size:
                        await asyncio.sleep(self._settings.pause_seconds)
            finally:
                self._stream = None
                self._has_stream.clear()

    async def _find_again(self, stream: Subscription, position: Position) -> None:
        """Make sure that this is the stream the view was made from, by the last message that is in it.

        If the stream was made anew meanwhile, its offsets mean something else. Then read it from its start:
        facts count once. Raises ReadAnew.
        """
        try:
            first = await asyncio.wait_for(stream.peek(), self._settings.stream_answer_seconds)
        except TimeoutError:
            await self._read_anew("it ends before the offset that was read last")
            raise ReadAnew from None
        if offset_of(first) > position.stream_offset:
            await self._skip(position.stream_offset, offset_of(first))
        elif storable(first.message_id) != position.message_id:
            await self._read_anew("another message stands where the last one was read")
            raise ReadAnew

    async def _notice_gap(
        self, stream: Subscription, messages: Sequence[Arrived], position: Position
    ) -> None:
        """Whether the stream lost what comes before these: it may also be cut off under a slow reader."""
        read_up_to, first = self.progress.stream_offset, offset_of(messages[0].message)
        if first <= read_up_to + 1 or (read_up_to < 0 and position.reading > 1):
            return
        begins_at = await stream.known_start()
        if begins_at is not None and begins_at > read_up_to + 1:
            await self._skip(read_up_to, first)

    async def _skip(self, read_up_to: int, begins_at: int) -> None:
        """Go on behind what the stream has lost; whoever was under way is looked up with the services."""
        if begins_at <= read_up_to + 1:
            return

        async def skip(connection: Connection) -> int:
            await repository.lock(connection)
            return await gaps.skip(connection, read_up_to, begins_at, self._settings.look_up_patience_seconds)

        sagas = await self._write(skip)
        self.progress.stream_offset = begins_at - 1
        log.error("stream_truncated", read_up_to=read_up_to, begins_at=begins_at, sagas_to_look_up=sagas)
        await self._position()

    async def _read_anew(self, why: str) -> None:
        async def read_anew(connection: Connection) -> int:
            before = await repository.lock(connection)
            patience = self._settings.look_up_patience_seconds
            sagas = await gaps.note(connection, gaps.MADE_ANEW, before.stream_offset, 0, patience)
            await repository.read_anew(connection)
            return sagas

        sagas = await self._write(read_anew)
        log.error("stream_was_made_anew", why=why, sagas_to_look_up=sagas)

    async def _write(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Do this to the view in one transaction, once it is this process's turn."""
        while True:
            try:
                async with self._database.transaction() as connection:
                    return await work(connection)
            except AnotherWrites as error:
                self._held_up.began(error)
                await asyncio.sleep(self._settings.reconnect_seconds)
            except BEYOND_LIMITS:
                raise
            except CONTENTION:
                continue
            except AWAY as error:
                await self._database.wait_until_back(error)

    async def _record(self, messages: Sequence[Arrived], reading: int) -> None:
        """Commit what these messages say. One that the database will not have is recorded as unreadable."""
        batch = read_batch(messages, self._settings.max_message_bytes)
        try:
            recorded = await self._commit(batch, reading)
        except ReadAnew:
            raise
        except Exception as error:
            if spares_the_row(error):
                raise
            if len(messages) > 1:
                middle = len(messages) // 2
                await self._record(messages[:middle], reading)
                await self._record(messages[middle:], reading)
                return
            log.error("unstorable_fact", stream_offset=batch.last_offset, why=named(error))
            refused = unreadable_of(messages[0].message, type(error).__name__, in_words(error))
            batch = ReadBatch(batch.last_offset, batch.last_message_id, unreadable=[refused])
            recorded = await self._commit(batch, reading)
        self._note(recorded)

    async def _commit(self, batch: ReadBatch, reading: int) -> Recorded:
        return await self._write(lambda connection: self._recorder.record(connection, batch, reading))

    def _note(self, recorded: Recorded) -> None:
        """What follows from a commit. A mistake in here is no message's fault."""
        self._recorder.committed(recorded)
        metrics.recorded(recorded, self._settings.deadline_rules, datetime.now(UTC))
        for taken in sorted(recorded.taken.values(), key=lambda taken: taken.answered_at):
            self._availability.answered(taken.service, taken.step, taken.began_at, taken.answered_at)
        rules = self._settings.deadline_rules
        for order_id, saga in recorded.sagas.items():
            self._availability.waits(order_id, rules.times_of(saga))
        self._availability.look()
        self._held_up.ended()
        self._failure.ended()
        self.progress.stream_offset = recorded.position.stream_offset
        for message in recorded.batch.unreadable:
            _warn_of(message)

    async def _position(self) -> Position:
        async def look(connection: Connection) -> tuple[list[gaps.Gap], Position]:
            return await gaps.latest(connection, 1), await repository.position(connection)

        last, position = await self._database.until_done(lambda: self._database.read(look))
        self.progress.never_read = str(last[0]) if last else None
        return position


def _warn_of(message: UnreadableMessage) -> None:
    metrics.UNREADABLE.inc()
    log.warning(
        "unreadable_in_stream",
        stream_offset=message.stream_offset,
        reason=message.reason,
        detail=message.detail,
        fact_id=message.message_id,
        wire_name=message.wire_name,
        stated_by=message.stated_by,
    )
