"""Takes a service's facts off its queue, and acknowledges them once they are settled."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Union

from aio_pika.abc import AbstractIncomingMessage, AbstractQueue
from faststream.rabbit import RabbitBroker, RabbitExchange, RabbitQueue
from faststream.rabbit.schemas import QueueType
from faststream.specification import AsyncAPI
from opentelemetry.instrumentation.utils import suppress_instrumentation
from yarl import URL

from events.runtime.broker import BROKER_AWAY, lasting_connection_url, lost_means_away
from events.runtime.log import Outage
from events.runtime.promptly import promptly
from events.runtime.settings import ServiceSettings
from events.service import EXCHANGE, Service


class Consumer:
    """Consumes one queue over FastStream's connection. What arrives goes to `receive`, `settle` acknowledges.

    The deliveries come straight from aio-pika: FastStream's own handling of each costs as much as the rest of
    the way from the socket to the batch, and it would do nothing here.
    """

    def __init__(
        self, settings: ServiceSettings, service: Service, receive: Callable[[AbstractIncomingMessage], None]
    ) -> None:
        self._settings = settings
        self._service = service
        self._receive = receive
        self._acknowledgements = Acknowledgements()
        self._outage = Outage("broker, for consuming")
        self._broker = self._on_one_node()
        self._queue: AbstractQueue | None = None
        self._consumer_tag: str | None = None

    async def run(self) -> None:
        """Consume for ever: wait for the broker at first; later the connection recovers by itself."""
        while self._consumer_tag is None:
            try:
                with lost_means_away():
                    await self._begin()
            except BROKER_AWAY as error:
                self._outage.began(error)
                await self._broker.stop()
                self._broker = self._on_one_node()
                await asyncio.sleep(self._settings.reconnect_seconds)
        while True:
            try:
                with lost_means_away():
                    alive = await self._broker.ping(timeout=self._settings.reconnect_seconds)
            except BROKER_AWAY:
                alive = False
            if alive:
                self._outage.ended()
            else:
                self._outage.began(ConnectionError("connection lost"))
                await self._turn_to_another_node()
            await asyncio.sleep(self._settings.reconnect_seconds)

    async def working(self) -> bool:
        """Whether the broker counts a consumer on the queue, over a connection that answers."""
        if self._consumer_tag is None:
            return False
        try:
            async with asyncio.timeout(self._settings.reconnect_seconds * 4):
                connection = await self._broker.connect()
                async with connection.channel() as channel:
                    queue = await channel.declare_queue(self._service.queue, passive=True)
        except BROKER_AWAY:
            return False
        return (queue.declaration_result.consumer_count or 0) > 0

    async def stop_receiving(self) -> None:
        """Cancel the consumer; what has arrived already can still be settled."""
        tag, self._consumer_tag = self._consumer_tag, None
        if self._queue is not None and tag is not None:
            with contextlib.suppress(*BROKER_AWAY):
                async with asyncio.timeout(self._settings.reconnect_seconds * 4):
                    await self._queue.cancel(tag)

    async def close(self) -> None:
        """Let go of the connection; if the broker does not answer that, without its consent."""
        with contextlib.suppress(*BROKER_AWAY):
            await promptly(self._broker.stop(), self._settings.reconnect_seconds * 4)

    async def settle(
        self, messages: Sequence[AbstractIncomingMessage], returned: Sequence[AbstractIncomingMessage]
    ) -> None:
        """Acknowledge messages whose effects are committed, except those `returned` to the queue.

        A lost channel redelivers them: no matter.
        """
        with contextlib.suppress(*BROKER_AWAY), lost_means_away():
            await self._acknowledgements.settle(messages, returned)

    def _on_one_node(self) -> RabbitBroker:
        return broker_of(
            self._service,
            lasting_connection_url(self._settings),
            connect_timeout_seconds=self._settings.broker_connect_timeout_seconds,
            reconnect_seconds=self._settings.reconnect_seconds,
        )

    async def _turn_to_another_node(self) -> None:
        """Where aio-pika, which tries again by itself, tries next."""
        connection = await self._broker.connect()
        connection.url = URL(lasting_connection_url(self._settings))

    async def _begin(self) -> None:
        # What a delivery leads to has its span where it is committed: one for its arrival would tell nothing.
        with suppress_instrumentation():
            connection = await self._broker.connect()
            channel = await connection.channel()
            await channel.set_qos(prefetch_count=self._settings.prefetch)
            self._queue = await channel.declare_queue(self._service.queue, passive=True)
            self._consumer_tag = await self._queue.consume(self._hear)

    async def _hear(self, message: AbstractIncomingMessage) -> None:
        self._receive(message)


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
        messages: Sequence[AbstractIncomingMessage],
        returned: Sequence[AbstractIncomingMessage] = (),
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

    def _tags(self, messages: Sequence[AbstractIncomingMessage]) -> set[int]:
        return {
            message.delivery_tag
            for message in messages
            if message.channel is self._channel and message.delivery_tag is not None
        }


def broker_of(
    service: Service, broker_url: str, *, connect_timeout_seconds: float = 5, reconnect_seconds: float = 5
) -> RabbitBroker:
    """The service on FastStream: its connection, and what it hears and states, documented by type."""
    broker = RabbitBroker(
        broker_url,
        logger=None,
        app_id=service.name,
        graceful_timeout=None,
        timeout=connect_timeout_seconds,
        reconnect_interval=reconnect_seconds,
    )
    exchange = RabbitExchange(EXCHANGE, declare=False)

    async def hear(fact: Any) -> None:
        """Decode, decide, commit with its batch, acknowledge."""

    hear.__annotations__["fact"] = Union[service.hears]  # noqa: UP007 - a union made of a tuple
    broker.subscriber(
        RabbitQueue(service.queue, queue_type=QueueType.QUORUM, declare=False),
        exchange,
        title=service.queue,
        description=f"Bound to {', '.join(service.binding_keys)}.",
    )(hear)
    for fact in service.states:
        broker.publisher(
            routing_key=fact.wire_name,
            exchange=exchange,
            title=fact.wire_name,
            description=fact.__doc__,
            schema=fact,
        )
    return broker


def asyncapi_document(service: Service) -> dict[str, Any]:
    """The AsyncAPI document of a service, derived from the types of its `decide`."""
    api = AsyncAPI(
        broker_of(service, "amqp://broker"),
        title=f"{service.package}: facts heard and stated",
        version="1.0.0",
    )
    document: dict[str, Any] = api.to_specification().to_jsonable()
    return document
