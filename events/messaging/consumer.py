"""Runs a service's FastStream broker: for ever, whatever becomes of the server, and until it is drained."""

import asyncio
import contextlib
from collections.abc import Awaitable, Sequence
from typing import Any, Protocol

from aio_pika.abc import AbstractRobustChannel, AbstractRobustConnection
from aio_pika.exceptions import ChannelInvalidStateError

from events.messaging.broker import ServiceBroker
from events.messaging.connection import (
    BROKER_AWAY,
    CLOSE_TIMEOUT_SECONDS,
    closed_means_away,
    lost_means_away,
)
from events.messaging.subscriber import Arrived, Receive
from events.runtime.loops import promptly
from events.runtime.settings import ServiceSettings
from events.service import Service
from events.telemetry.log import Outage

# Acknowledges messages with as few frames as possible, and never one that is not done with.


class Delivered(Protocol):
    """What is used of a message that arrived, by aio-pika's names."""

    @property
    def channel(self) -> Any:
        """The channel it came on. Raises ChannelInvalidStateError once that is closed."""

    @property
    def delivery_tag(self) -> int | None: ...

    async def ack(self, multiple: bool = False) -> None: ...


class Acknowledgements:
    """Of the messages of one consumer.

    Delivery tags count up from 1 on a channel. One `multiple` acknowledgement covers what is done up to the
    first message that is not; it must not reach further, whatever order messages are done in. What is done
    beyond that, because one before it is set aside for a while, is acknowledged by itself.
    """

    def __init__(self) -> None:
        self._channel: Any = None
        self._acknowledged: set[int] = set()
        self._reached = 0

    async def acknowledge(self, messages: Sequence[Delivered]) -> None:
        """These are done with. Those of a channel that is closed the broker delivers once more."""
        done = self._on_current_channel(messages)
        last: Delivered | None = None
        while (next_tag := self._reached + 1) in done or next_tag in self._acknowledged:
            self._reached = next_tag
            self._acknowledged.discard(next_tag)
            last = done.pop(next_tag, last)
        self._acknowledged |= done.keys()
        if last is not None:
            await last.ack(multiple=True)
        for message in done.values():
            await message.ack()

    def _on_current_channel(self, messages: Sequence[Delivered]) -> dict[int, Delivered]:
        """Those that came on the newest channel that any came on, by their tags."""
        on = [(channel, message) for message in messages if (channel := _channel_of(message)) is not None]
        if on and on[-1][0] is not self._channel:
            self._channel, self._acknowledged, self._reached = on[-1][0], set(), 0
        return {
            message.delivery_tag: message
            for channel, message in on
            if channel is self._channel and message.delivery_tag is not None
        }


def _channel_of(message: Delivered) -> Any:
    try:
        return message.channel
    except ChannelInvalidStateError:
        return None


def is_there(message: Delivered) -> bool:
    """Whether the channel that it came on is still open."""
    channel = _channel_of(message)
    return channel is not None and not channel.is_closed


# How many times longer than the pause between two attempts the broker may take to answer.
_ANSWER_FACTOR = 4


class Consumer:
    """Consumes one queue. What arrives goes to `receive`; `acknowledge` takes it off the queue."""

    def __init__(self, settings: ServiceSettings, service: Service, receive: Receive) -> None:
        self._settings = settings
        self._service = service
        self._receive = receive
        self._acknowledgements = Acknowledgements()
        self._outage = Outage("broker, for consuming")
        self._answer_seconds = settings.reconnect_seconds * _ANSWER_FACTOR
        # Of connecting, which aio-pika bounds by itself, and of what follows on a busy broker.
        self._start_seconds = settings.broker_connect_timeout_seconds + self._answer_seconds
        self._connection: AbstractRobustConnection | None = None
        self._asking: AbstractRobustChannel | None = None
        self._lost = asyncio.Event()
        self._abandoned: set[asyncio.Task[None]] = set()
        self.broker = self._new_broker()

    async def run(self) -> None:
        """Consume for ever; wait for a broker that is away."""
        while True:
            try:
                await self._consume_over_one_connection()
            except BROKER_AWAY as error:
                self._outage.began(error)
            await asyncio.sleep(self._settings.reconnect_seconds)
            self.broker = self._new_broker()

    async def working(self) -> bool:
        """Whether the broker counts a consumer on the queue, over a connection that answers."""
        connection = self._connection
        if connection is None or not self.broker.facts_subscriber.running:
            return False
        try:
            with lost_means_away(), closed_means_away():
                return await promptly(self._consumers(connection), self._answer_seconds) > 0
        except BROKER_AWAY:
            self._asking = None
            return False

    async def stop_receiving(self) -> None:
        """Cancel the consumer; what has arrived already can still be acknowledged."""
        if self._connection is not None:
            with contextlib.suppress(*BROKER_AWAY), closed_means_away():
                await promptly(self.broker.facts_subscriber.stop(), self._answer_seconds)

    async def acknowledge(self, messages: Sequence[Arrived]) -> None:
        """Take messages off the queue whose effects are committed.

        A lost channel redelivers them: no matter.
        """
        with contextlib.suppress(*BROKER_AWAY), lost_means_away():
            await self._acknowledgements.acknowledge(messages)

    def _new_broker(self) -> ServiceBroker:
        """One for each connection. They are all declared the same."""
        lost = self._lost = asyncio.Event()
        return ServiceBroker(self._settings, self._service, self._receive, on_lost=lost.set)

    async def _consume_over_one_connection(self) -> None:
        """Until it is lost. Raises one of BROKER_AWAY then."""
        broker = self.broker
        connection = await self._connected(broker)
        try:
            with lost_means_away(), closed_means_away():
                await promptly(broker.start(), self._start_seconds)
            self._connection = connection
            self._outage.ended()
            await self._lost.wait()
            raise ConnectionError("connection lost")
        finally:
            self._connection = self._asking = None
            # FastStream closes it last of all, and not if what comes before takes too long.
            for close in (broker.stop, connection.close):
                with contextlib.suppress(*BROKER_AWAY), closed_means_away():
                    await promptly(close(), CLOSE_TIMEOUT_SECONDS / 2)

    async def _connected(self, broker: ServiceBroker) -> AbstractRobustConnection:
        """Its connection. Raises one of BROKER_AWAY when there is none to be had.

        aio-pika bounds an attempt by itself. Cancelled meanwhile, it would go on connecting for ever: so an
        attempt that nobody waits for any more comes to its end, and what it brings is closed.
        """
        connecting = asyncio.ensure_future(broker.connect())
        try:
            with lost_means_away(), closed_means_away():
                return await promptly(asyncio.shield(connecting), self._start_seconds)
        except BaseException:
            abandoned = asyncio.create_task(_close_once_there(connecting), name="abandoned connection")
            self._abandoned.add(abandoned)
            abandoned.add_done_callback(self._abandoned.discard)
            raise

    async def _consumers(self, connection: AbstractRobustConnection) -> int:
        """Asked on a channel that is kept: to open one takes the broker and us longer than the question."""
        channel = self._asking
        if channel is None or channel.is_closed:
            channel = connection.channel(publisher_confirms=False)
            await channel.initialize()
            self._asking = channel
        queue = await channel.declare_queue(self._service.queue, passive=True, robust=False)
        return queue.declaration_result.consumer_count or 0


async def _close_once_there(connecting: Awaitable[AbstractRobustConnection]) -> None:
    with contextlib.suppress(*BROKER_AWAY), lost_means_away(), closed_means_away():
        await promptly((await connecting).close(), CLOSE_TIMEOUT_SECONDS)
