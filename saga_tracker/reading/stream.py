"""Reads the stream of all facts, from any message on.

By aiormq's channel, beneath aio-pika's: after a reconnect FastStream's consumer would begin where it once
began, not where the view stands now, and aio-pika makes of each message what may be acknowledged and
copied, which takes longer than to read it.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, NamedTuple, Self

from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import AMQPChannelError, ChannelNotFoundEntity
from aiormq.abc import AbstractChannel as Beneath
from aiormq.abc import ConsumerCallback, DeliveredMessage

from events.facts.base import content_of
from events.messaging.connection import BROKER_AWAY, closed_means_away, connected, lost_means_away
from events.messaging.copies import cut
from events.messaging.envelope import Envelope, Unreadable, decode, stated_at
from events.messaging.lenient_pamqp import SHORT_STRING_BYTES
from events.messaging.retries import original_routing_key
from events.runtime.loops import promptly
from events.service import STREAM, name_of
from events.telemetry.redaction import in_words
from events.telemetry.tracing import trace_id
from saga_tracker.projection import SagaFact
from saga_tracker.reading.batch import ReadBatch, ReadFact, UnreadableMessage
from saga_tracker.settings import TrackerSettings

MAX_DETAIL_CHARACTERS = 2_000
# Outside of these a date is a mistake, and the fact counts as undated.
_EARLIEST, _LATEST = datetime(2000, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)


class StreamMessage:
    """What is read of a message, by the names that aio-pika has for it."""

    __slots__ = (
        "app_id",
        "body",
        "content_type",
        "delivery_tag",
        "exchange",
        "headers",
        "message_id",
        "routing_key",
        "timestamp",
        "type",
    )

    def __init__(self, delivered: DeliveredMessage) -> None:
        properties = delivered.header.properties
        self.delivery_tag: int = delivered.delivery_tag or 0
        self.exchange = delivered.exchange
        self.routing_key = delivered.routing_key
        self.message_id: str | None = properties.message_id or None
        self.type: str | None = properties.message_type or None
        self.app_id: str | None = properties.app_id or None
        self.timestamp: datetime | None = properties.timestamp
        self.content_type: str | None = properties.content_type
        self.headers: Mapping[str, Any] = properties.headers or {}
        self.body = delivered.body


class Arrived(NamedTuple):
    """A message, and when it arrived on this process's steady clock."""

    message: StreamMessage
    at_seconds: float


class Subscription:
    """One consumer of the stream, on a connection of its own; good until anything of it breaks.

    Entering it raises one of BROKER_AWAY when the broker is away.
    """

    def __init__(self, settings: TrackerSettings, first_offset: int | None) -> None:
        """Read from `first_offset` on, or from the first message that is still there."""
        self._settings = settings
        self._first_offset = first_offset
        self._arrived: deque[Arrived] = deque()
        self._taken: StreamMessage | None = None
        self._received = self._passed_on = self._settled = 0
        self._settle_every = max(1, settings.prefetch // 4)
        self._wake = asyncio.Event()
        self._broken: str | None = None
        self._stack = AsyncExitStack()
        self._connection: AbstractConnection | None = None
        self._channel: AbstractChannel | None = None
        self._beneath: Beneath | None = None
        self._asking: AbstractChannel | None = None
        # Of each queue that was asked for last: how many consume it, and how many messages are ready in it.
        self.queues: dict[str, tuple[int, int]] = {}

    async def __aenter__(self) -> Self:
        with closed_means_away(), lost_means_away():
            await promptly(self._consume(), self._settings.connect_timeout_seconds)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A connection that does not answer any more is left to itself: its heartbeat will end it.
        with contextlib.suppress(*BROKER_AWAY), closed_means_away():
            await promptly(self._stack.aclose(), self._settings.connect_timeout_seconds)

    async def peek(self) -> StreamMessage:
        """The next message, once it has arrived; it stays there. Raises ConnectionError when none will."""
        while not self._arrived:
            if self._broken is not None:
                raise ConnectionError(self._broken)
            self._wake.clear()
            await self._wake.wait()
        return self._arrived[0].message

    async def next_batch(self) -> list[Arrived]:
        """Whatever has arrived, once something has. Raises ConnectionError when nothing more will."""
        await self.peek()
        size = min(len(self._arrived), self._settings.batch_size)
        taken = [self._arrived.popleft() for _ in range(size)]
        self._taken = taken[-1].message
        self._passed_on += size
        return taken

    @property
    def last_offset(self) -> int:
        """The offset of the last message that has arrived; -1 if none has."""
        last = self._arrived[-1].message if self._arrived else self._taken
        return -1 if last is None else offset_of(last)

    async def settle(self) -> None:
        """Let the broker send more in place of the messages taken so far, once they are many.

        What was read is known by its offset, so an acknowledgement only makes room; each costs the broker a
        look into the stream.
        """
        unsettled = self._passed_on - self._settled
        if self._broken is not None or self._taken is None or self._beneath is None:
            return
        if unsettled >= self._settle_every:
            self._settled = self._passed_on
            with closed_means_away(), lost_means_away():
                await self._beneath.basic_ack(self._taken.delivery_tag, multiple=True)

    async def known_end(self) -> int | None:
        """An offset near the stream's end: of the first message in its last chunk. None if it is empty.

        Raises one of BROKER_AWAY when the broker does not answer.
        """
        return await self._look_at("last")

    async def known_start(self) -> int | None:
        """The offset of the first message that is still there, likewise."""
        return await self._look_at("first")

    async def _look_at(self, begin: str) -> int | None:
        if self._connection is None:
            raise ConnectionError("not connected")
        found: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def note(delivered: DeliveredMessage) -> None:
            if not found.done():
                found.set_result(offset_of(StreamMessage(delivered)))

        limit_seconds = self._settings.connect_timeout_seconds
        with closed_means_away(), lost_means_away():
            channel = self._connection.channel(publisher_confirms=False)
            await promptly(channel.initialize(), limit_seconds)
            try:
                await promptly(_consume(channel, 1, begin, note), limit_seconds)
                return await asyncio.wait_for(found, self._settings.stream_answer_seconds)
            except TimeoutError:
                return None
            finally:
                await promptly(channel.close(), limit_seconds)

    async def consumers_of(self, queues: Iterable[str]) -> dict[str, int]:
        """How many consume each of these; none where it is missing. One that is nobody's to ask is left out.

        Raises one of BROKER_AWAY when the broker does not answer.
        """
        if self._connection is None:
            raise ConnectionError("not connected")
        found: dict[str, int] = {}
        for queue in queues:
            with closed_means_away(), lost_means_away():
                # A question that the broker does not like ends its channel.
                if self._asking is None or self._asking.is_closed:
                    self._asking = self._connection.channel(publisher_confirms=False)
                    await promptly(self._asking.initialize(), self._settings.connect_timeout_seconds)
                try:
                    asking = self._asking.declare_queue(queue, passive=True)
                    answer = await promptly(asking, self._settings.stream_answer_seconds)
                    found[queue] = answer.declaration_result.consumer_count or 0
                    self.queues[queue] = found[queue], answer.declaration_result.message_count or 0
                except ChannelNotFoundEntity:
                    found[queue] = 0
                    self.queues[queue] = 0, 0
                except AMQPChannelError:
                    continue
        return found

    async def sent_by_now(self) -> int | None:
        """The offset of the last message that the broker has sent; -1 if none. None if it waits for room.

        Its answer comes behind those messages, so it also shows that the broker lives; silence does not.
        Raises one of BROKER_AWAY when there is none.
        """
        if self._channel is None:
            raise ConnectionError("not connected")
        settled = self._settled
        # Asks for what is so already: all that counts is the answer.
        with closed_means_away(), lost_means_away():
            asking = self._channel.set_qos(prefetch_count=self._settings.prefetch)
            await promptly(asking, self._settings.stream_answer_seconds)
        if self._received - settled >= self._settings.prefetch:
            return None
        return self.last_offset

    def give_up(self, why: BaseException) -> None:
        """Have `next_batch` raise: this connection is no good any more."""
        self._break(f"the broker does not answer: {why}")

    async def _consume(self) -> None:
        async with AsyncExitStack() as stack:
            connection = await stack.enter_async_context(
                connected(self._settings, "tracker stream", self._settings.connect_timeout_seconds)
            )
            channel = connection.channel(publisher_confirms=False)
            await channel.initialize()
            channel.close_callbacks.add(self._closed)
            beneath = await channel.get_underlay_channel()
            beneath.on_consumer_cancel_callbacks.add(self._closed)
            begin = "first" if self._first_offset is None else self._first_offset
            await _consume(channel, self._settings.prefetch, begin, self._receive)
            self._connection, self._channel, self._beneath = connection, channel, beneath
            self._stack = stack.pop_all()

    async def _receive(self, delivered: DeliveredMessage) -> None:
        self._received += 1
        self._arrived.append(Arrived(StreamMessage(delivered), time.monotonic()))
        self._wake.set()

    def _closed(self, *_: Any) -> None:
        self._break("the consumer of the stream was closed")

    def _break(self, why: str) -> None:
        self._broken = self._broken or why
        self._wake.set()


async def _consume(
    channel: AbstractChannel,
    prefetch: int,
    begin: int | str,
    receive: ConsumerCallback,
) -> None:
    await channel.set_qos(prefetch_count=prefetch)
    beneath = await channel.get_underlay_channel()
    await beneath.basic_consume(STREAM, receive, arguments={"x-stream-offset": begin})


def offset_of(message: StreamMessage) -> int:
    """Where in the stream a message stands."""
    return _offset_in(message.headers)


def _offset_in(headers: Mapping[str, Any]) -> int:
    offset = headers["x-stream-offset"]
    if not isinstance(offset, int):
        raise TypeError(f"x-stream-offset must be an integer, not {offset!r}")
    return offset


def read_batch(arrived: Iterable[Arrived], max_bytes: int) -> ReadBatch:
    """What a non-empty run of messages says."""
    facts: list[ReadFact] = []
    unreadable: list[UnreadableMessage] = []
    message = None
    for message, at_seconds in arrived:
        try:
            facts.append(_fact_of(message, at_seconds, max_bytes))
        except Unreadable as error:
            unreadable.append(unreadable_of(message, error.reason, in_words(error)))
        except Exception as error:  # noqa: BLE001 - no message may keep the ones behind it from being read
            unreadable.append(unreadable_of(message, type(error).__name__, in_words(error)))
    if message is None:
        raise ValueError("a batch has at least one message")
    return ReadBatch(offset_of(message), storable(message.message_id), facts, unreadable)


def unreadable_of(message: StreamMessage, reason: str, detail: str) -> UnreadableMessage:
    """A message that tells of no saga, as it is recorded."""
    return UnreadableMessage(
        stream_offset=offset_of(message),
        reason=reason,
        detail=storable(detail[:MAX_DETAIL_CHARACTERS]) or "",
        message_id=storable(message.message_id),
        wire_name=storable(message.type or original_routing_key(message)),
        stated_by=storable(message.app_id),
    )


def _fact_of(message: StreamMessage, at_seconds: float, max_bytes: int) -> ReadFact:
    envelope = decode(message, original_routing_key(message), max_bytes)
    fact, published_at = envelope.fact, stated_at(message)
    dated = published_at is not None and _EARLIEST < published_at < _LATEST
    now = datetime.now(UTC)
    at = published_at if published_at is not None and dated else now
    body = fact.model_dump_json()
    content = content_of(fact, body)
    return ReadFact(
        stream_offset=offset_of(message),
        order_id=fact.order_id,
        fact_id=envelope.fact_id,
        wire_name=fact.wire_name,
        # It is published again under this name: what is put in place of a NUL must not make it too long.
        stated_by=cut(storable(envelope.stated_by) or "", SHORT_STRING_BYTES),
        causation_id=envelope.causation_id,
        stated_at=at,
        dated=dated,
        traceparent=envelope.traceparent,
        body=body.replace("\\u0000", "\\ufffd"),
        content=content,
        read_at=now,
        arrived_seconds=at_seconds,
        saga_fact=_saga_fact(envelope, now, at, trace_id(envelope.traceparent), content),
    )


def _saga_fact(
    envelope: Envelope, read_at: datetime, published_at: datetime, trace: str | None, content: int
) -> SagaFact:
    """As `repository.facts_of` has it later."""
    fields = vars(envelope.fact)
    return SagaFact(
        fact_id=envelope.fact_id,
        name=name_of(envelope.fact.wire_name),
        read_at=read_at,
        stated_at=published_at,
        reason=storable(fields.get("reason") or fields.get("waiting_for")),
        ending=fields.get("ending"),
        trace_id=trace,
        service=fields.get("service"),
        about=fields.get("redriven_id", fields.get("because_of_id")) or envelope.causation_id,
        content=content,
    )


def storable(text: str | None) -> str | None:
    """PostgreSQL keeps no NUL character in text, nor in JSON."""
    return text.replace("\x00", "\ufffd") if text else text
