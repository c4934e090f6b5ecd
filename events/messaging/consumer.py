"""Takes a service's facts off its queue, and acknowledges them once they are settled."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import aiormq
from aiormq.abc import AbstractChannel, DeliveredMessage
from pamqp.commands import Queue

from events.messaging.connection import BROKER_AWAY, lasting_connection_url, lost_means_away
from events.messaging.deliveries import Deliveries, Delivery
from events.runtime.log import Outage
from events.runtime.promptly import promptly
from events.runtime.settings import ServiceSettings
from events.service import Service


class Consumer:
    """Consumes one queue. What arrives goes to `receive`, `settle` acknowledges it.

    On a connection of aiormq's, below FastStream and aio-pika: what they do for each delivery costs more than
    the rest of its way from the socket to the batch, and would do nothing here.
    """

    def __init__(
        self, settings: ServiceSettings, service: Service, receive: Callable[[Delivery], None]
    ) -> None:
        self._settings = settings
        self._service = service
        self._receive = receive
        self._acknowledgements = Acknowledgements()
        self._outage = Outage("broker, for consuming")
        self._connection: aiormq.Connection | None = None
        self._channel: AbstractChannel | None = None
        self._consumer_tag: str | None = None
        self._lost = asyncio.Event()

    async def run(self) -> None:
        """Consume for ever; wait for a broker that is away."""
        while True:
            try:
                with lost_means_away():
                    await promptly(self._begin(), self._settings.broker_connect_timeout_seconds)
                self._outage.ended()
                await self._lost.wait()
                self._outage.began(ConnectionError("connection lost, or consumer cancelled by the broker"))
            except BROKER_AWAY as error:
                self._outage.began(error)
            await self.close()
            await asyncio.sleep(self._settings.reconnect_seconds)

    async def working(self) -> bool:
        """Whether the broker counts a consumer on the queue, over a connection that answers."""
        connection = self._connection
        if connection is None or self._consumer_tag is None:
            return False
        try:
            with lost_means_away():
                queue = await promptly(self._look_at_queue(connection), self._settings.reconnect_seconds * 4)
        except BROKER_AWAY:
            return False
        return (queue.consumer_count or 0) > 0

    async def stop_receiving(self) -> None:
        """Cancel the consumer; what has arrived already can still be settled."""
        tag, self._consumer_tag = self._consumer_tag, None
        if self._channel is not None and tag is not None:
            with contextlib.suppress(*BROKER_AWAY):
                await promptly(self._channel.basic_cancel(tag), self._settings.reconnect_seconds * 4)

    async def close(self) -> None:
        """Let go of the connection; if the broker does not answer that, without its consent."""
        connection, self._connection, self._channel = self._connection, None, None
        self._consumer_tag = None
        if connection is not None:
            with contextlib.suppress(*BROKER_AWAY):
                await promptly(connection.close(), self._settings.reconnect_seconds * 4)

    async def settle(self, messages: Sequence[Delivery], returned: Sequence[Delivery]) -> None:
        """Acknowledge messages whose effects are committed, except those `returned` to the queue.

        A lost channel redelivers them: no matter.
        """
        with contextlib.suppress(*BROKER_AWAY), lost_means_away():
            await self._acknowledgements.settle(messages, returned)

    async def _begin(self) -> None:
        lost = self._lost = asyncio.Event()
        deliveries = Deliveries()
        url = lasting_connection_url(self._settings)
        self._connection = connection = aiormq.Connection(url, transport_factory=deliveries)
        await connection.connect(client_properties={"connection_name": f"{self._service.name} consumer"})
        self._channel = channel = await connection.channel(publisher_confirms=False)
        deliveries.on_channel(channel, self._receive)
        channel.closing.add_done_callback(lambda _: lost.set())
        channel.on_consumer_cancel_callbacks.add(lambda _: lost.set())
        await channel.basic_qos(prefetch_count=self._settings.prefetch)
        consuming = await channel.basic_consume(self._service.queue, _unused)
        self._consumer_tag = consuming.consumer_tag

    async def _look_at_queue(self, connection: aiormq.Connection) -> Queue.DeclareOk:
        channel = await connection.channel(publisher_confirms=False)
        try:
            return await channel.queue_declare(self._service.queue, passive=True)
        finally:
            await channel.close()


async def _unused(_: DeliveredMessage) -> None:
    """For a channel whose deliveries aiormq does not see."""


class Acknowledgements:
    """Acknowledges with as few frames as possible, and never beyond what is settled.

    Delivery tags count up from 1 on a channel. One `multiple` acknowledgement covers the settled tags up to
    the first unsettled one; it must not reach further, whatever order handlers ran in, nor end on one that
    was returned to the queue, which the broker no longer knows.
    """

    def __init__(self) -> None:
        self._channel: Any = None
        self._settled: set[int] = set()
        self._returned: set[int] = set()
        self._reached = 0

    async def settle(
        self,
        messages: Sequence[Delivery],
        returned: Sequence[Delivery] = (),
    ) -> None:
        """Note that `messages` are settled, those `returned` among them, and acknowledge what can be."""
        channel = messages[-1].channel
        if channel is not self._channel:
            self._channel, self._settled, self._returned, self._reached = channel, set(), set(), 0
        self._settled |= self._tags(messages)
        self._returned |= self._tags(returned)
        last = None
        while self._reached + 1 in self._settled:
            self._reached += 1
            self._settled.discard(self._reached)
            if self._reached in self._returned:
                self._returned.discard(self._reached)
            else:
                last = self._reached
        if last is not None:
            await self._channel.basic_ack(delivery_tag=last, multiple=True)

    def _tags(self, messages: Sequence[Delivery]) -> set[int]:
        return {
            message.delivery_tag
            for message in messages
            if message.channel is self._channel and message.delivery_tag is not None
        }
