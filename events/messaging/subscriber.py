"""A subscriber that hands over what arrives, with nothing in between.

FastStream's own subscriber leads every message by itself through contexts, middlewares, a parser, a decoder
and the handler: each costs as much as committing a fact. Here messages are decoded, judged and logged by the
batch (see `runtime/worker.py`), so all of that is done for nothing. This one is FastStream's in everything
else: declared, started, stopped and described by it.

It is built on what FastStream's own subscribers are built on, which is not meant for others. Whether that is
still what this file takes it for, tests/runtime/test_library_canaries.py says.
"""

import asyncio
from collections.abc import Awaitable, Callable, Generator
from datetime import datetime
from typing import Any, cast

from aio_pika import IncomingMessage
from aio_pika.exceptions import ChannelInvalidStateError
from aiormq.abc import AbstractChannel as Beneath
from aiormq.abc import DeliveredMessage
from faststream._internal.broker.registrator import Registrator
from faststream._internal.endpoint.subscriber import SubscriberUsecase
from faststream._internal.endpoint.subscriber.call_item import CallsCollection
from faststream.middlewares import AckPolicy
from faststream.rabbit import Channel, RabbitBroker, RabbitExchange, RabbitQueue
from faststream.rabbit.configs import RabbitBrokerConfig
from faststream.rabbit.subscriber.config import RabbitSubscriberConfig, RabbitSubscriberSpecificationConfig
from faststream.rabbit.subscriber.specification import RabbitSubscriberSpecification
from faststream.rabbit.subscriber.usecase import RabbitSubscriber


class Delivery:
    """A message as it was delivered, by aio-pika's names: what is read of one that can be handled.

    aio-pika's own takes longer to make than the fact in it takes to decode. `whole` makes it, for those few
    of which all is wanted.
    """

    __slots__ = (
        "_delivered",
        "app_id",
        "body",
        "content_type",
        "correlation_id",
        "delivery_tag",
        "exchange",
        "headers",
        "message_id",
        "processed",
        "redelivered",
        "routing_key",
        "timestamp",
        "type",
        "user_id",
    )

    def __init__(self, delivered: DeliveredMessage) -> None:
        properties = delivered.header.properties
        self._delivered = delivered
        self.app_id: str | None = properties.app_id
        self.body = delivered.body
        self.content_type: str | None = properties.content_type
        self.correlation_id: str | None = properties.correlation_id
        self.delivery_tag = delivered.delivery_tag
        self.exchange = delivered.exchange
        self.headers: dict[str, Any] = properties.headers or {}
        self.message_id: str | None = properties.message_id
        self.processed = False
        self.redelivered = bool(delivered.redelivered)
        self.routing_key = delivered.routing_key
        self.timestamp: datetime | None = properties.timestamp
        self.type: str | None = properties.message_type
        self.user_id: str | None = properties.user_id

    @property
    def channel(self) -> Beneath:
        """The channel it came on. Raises ChannelInvalidStateError once that is closed."""
        channel = self._delivered.channel
        if channel.is_closed:
            raise ChannelInvalidStateError
        return channel

    async def ack(self, multiple: bool = False) -> None:
        """Acknowledge it; with `multiple`, all before it on its channel as well."""
        if self.delivery_tag is not None:
            await self.channel.basic_ack(self.delivery_tag, multiple=multiple)
        self.processed = True

    @property
    def whole(self) -> IncomingMessage:
        """The same with all its properties."""
        return IncomingMessage(self._delivered)


# Where it is traced, a message comes the way that the instrumentation of aio-pika makes spans of.
Arrived = Delivery | IncomingMessage
Receive = Callable[[Arrived], None]


def whole(message: Arrived) -> IncomingMessage:
    """The same with all its properties."""
    return message if isinstance(message, IncomingMessage) else message.whole


class _Done:
    """What is done already when somebody waits for it."""

    def __await__(self) -> Generator[Any, None, None]:
        return
        yield


_DONE = _Done()


class DirectSubscriber(RabbitSubscriber):
    """Gives each message to `receive`, in order, which has it acknowledged later.

    Unless they are traced, it consumes by aiormq's channel, beneath aio-pika's. Once that is closed, or the
    broker ends the consumer, `on_lost` is called: there is nobody who would begin anew.
    """

    receive: Receive
    on_lost: Callable[[], None]
    traced: Callable[[], bool]
    stopped = False
    beneath: Beneath | None = None
    tag: str | None = None

    async def start(self) -> None:
        """As FastStream's own does it, up to where that consumes."""
        if self.traced():
            await super().start()
            return
        await SubscriberUsecase.start(self)
        queue = await self._outer_config.declarer.declare_queue(self.queue, channel=self.channel)
        self.beneath = beneath = await queue.channel.get_underlay_channel()
        beneath.closing.add_done_callback(self._over)
        beneath.on_consumer_cancel_callbacks.add(self._over)
        self.tag = (await beneath.basic_consume(queue.name, self._take)).consumer_tag
        self._post_start()

    def consume(self, msg: IncomingMessage) -> Awaitable[None]:  # type: ignore[override]
        """Called by aio-pika, perhaps before `running`. A coroutine would cost a task for each message."""
        if not self.stopped:
            self.receive(msg)
        return _DONE

    async def stop(self) -> None:
        """What still arrives the broker delivers to somebody else."""
        self.stopped = True
        tag, self.tag = self.tag, None
        if self.beneath is not None and tag is not None and not self.beneath.is_closed:
            await self.beneath.basic_cancel(tag)
        await super().stop()

    async def _take(self, delivered: DeliveredMessage) -> None:
        if not self.stopped:
            self.receive(Delivery(delivered))

    def _over(self, ended: Any) -> None:
        if isinstance(ended, asyncio.Future) and not ended.cancelled():
            ended.exception()
        if not self.stopped:
            self.on_lost()


def subscribe_directly(
    broker: RabbitBroker,
    queue: RabbitQueue,
    exchange: RabbitExchange,
    channel: Channel,
    receive: Receive,
    *,
    on_lost: Callable[[], None] = lambda: None,
    traced: Callable[[], bool] = lambda: False,
    title: str | None = None,
    description: str | None = None,
) -> DirectSubscriber:
    """As `broker.subscriber(...)` does it, which makes subscribers of FastStream's own class only."""
    outer = cast(RabbitBrokerConfig, broker.config)
    calls = CallsCollection[Any]()
    subscriber = DirectSubscriber(
        RabbitSubscriberConfig(
            no_reply=True,
            channel=channel,
            queue=queue,
            exchange=exchange,
            _ack_policy=AckPolicy.MANUAL,
            _outer_config=outer,
        ),
        RabbitSubscriberSpecification(
            _outer_config=outer,
            specification_config=RabbitSubscriberSpecificationConfig(
                title_=title, description_=description, include_in_schema=True, queue=queue, exchange=exchange
            ),
            calls=calls,
        ),
        calls,
    )
    subscriber.receive, subscriber.on_lost, subscriber.traced = receive, on_lost, traced
    Registrator.subscriber(broker, subscriber)
    return subscriber
