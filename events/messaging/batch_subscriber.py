"""FastStream's subscriber for RabbitMQ, but for batches: one call of its handler takes all that has arrived.

FastStream has batches for other brokers and none for this one, and its way to a handler costs more than all
the rest of a small message's way into a batch. So here its subscriber is taught to collect, as the one for
Kafka does: whatever arrives while the handler is busy is the next batch. The handler gets a tuple of
aio-pika's messages, acknowledges them by itself, and is never called twice at a time.

This leans on FastStream's own building blocks, some of them internal. It is written for 0.7.8; whether they
are still what this file takes them for, tests/runtime/test_library_canaries.py says.
"""

import asyncio
from typing import Any, cast

from aio_pika import IncomingMessage
from faststream._internal.endpoint.subscriber.call_item import CallsCollection
from faststream.message import StreamMessage
from faststream.middlewares import AckPolicy
from faststream.rabbit import Channel, RabbitBroker, RabbitExchange, RabbitQueue
from faststream.rabbit.broker.registrator import RabbitRegistrator
from faststream.rabbit.configs import RabbitBrokerConfig
from faststream.rabbit.subscriber.config import RabbitSubscriberConfig, RabbitSubscriberSpecificationConfig
from faststream.rabbit.subscriber.specification import RabbitSubscriberSpecification
from faststream.rabbit.subscriber.usecase import RabbitSubscriber

Messages = tuple[IncomingMessage, ...]


class BatchSubscriber(RabbitSubscriber):
    """Consumes one queue, and hands on what has arrived, in the order in which it was delivered."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._arrived: list[IncomingMessage] = []
        self._handing_on = False

    async def consume(self, msg: IncomingMessage) -> None:
        """Take one delivery. Whoever comes first hands on for all that come until it is done."""
        self._arrived.append(msg)
        if self._handing_on:
            return
        self._handing_on = True
        try:
            while self._arrived:
                await self._gather()
                batch, self._arrived = tuple(self._arrived), []
                await super().consume(cast(IncomingMessage, batch))
        finally:
            self._handing_on = False

    async def _gather(self) -> None:
        """Wait as long as each turn of the event loop brings more: what the socket had is one batch."""
        before = 0
        while len(self._arrived) > before:
            before = len(self._arrived)
            await asyncio.sleep(0)


class BatchBroker(RabbitBroker):
    """FastStream's broker for RabbitMQ with one more kind of subscriber."""

    def batch_subscriber(
        self, queue: RabbitQueue, exchange: RabbitExchange, channel: Channel, *, title: str, description: str
    ) -> BatchSubscriber:
        """A subscriber whose handler takes a tuple of messages, and acknowledges them by itself."""
        config = cast(RabbitBrokerConfig, self.config)
        calls = CallsCollection[Any]()
        specification = RabbitSubscriberSpecification(
            _outer_config=config,
            specification_config=RabbitSubscriberSpecificationConfig(
                title_=title,
                description_=description,
                include_in_schema=True,
                queue=queue,
                exchange=exchange,
            ),
            calls=calls,
        )
        subscriber = BatchSubscriber(
            RabbitSubscriberConfig(
                no_reply=True,
                channel=channel,
                queue=queue,
                exchange=exchange,
                _ack_policy=AckPolicy.MANUAL,
                _outer_config=config,
            ),
            specification=specification,
            calls=calls,
        )
        super(RabbitRegistrator, self).subscriber(subscriber, persistent=True)
        subscriber.add_call(parser_=_parse, decoder_=_decode, dependencies_=())
        return subscriber


async def _parse(messages: Messages) -> StreamMessage[Any]:
    """A batch in FastStream's terms. What is in its messages is for the handler to read."""
    return StreamMessage(raw_message=messages, body=b"", message_id="batch", correlation_id="batch")


async def _decode(message: StreamMessage[Any]) -> Messages:
    return cast(Messages, message.raw_message)
