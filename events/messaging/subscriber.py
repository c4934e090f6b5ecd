"""A subscriber that hands over what arrives, with nothing in between.

FastStream's own subscriber leads every message by itself through contexts, middlewares, a parser, a decoder
and the handler: each costs as much as committing a fact. Here messages are decoded, judged and logged by the
batch (see `runtime/worker.py`), so all of that is done for nothing. This one is FastStream's in everything
else: declared, started, stopped and described by it.

It is built on what FastStream's own subscribers are built on, which is not meant for others. Whether that is
still what this file takes it for, tests/runtime/test_library_canaries.py says.
"""

from collections.abc import Awaitable, Callable, Generator
from typing import Any, cast

from aio_pika import IncomingMessage
from faststream._internal.broker.registrator import Registrator
from faststream._internal.endpoint.subscriber.call_item import CallsCollection
from faststream.middlewares import AckPolicy
from faststream.rabbit import Channel, RabbitBroker, RabbitExchange, RabbitQueue
from faststream.rabbit.configs import RabbitBrokerConfig
from faststream.rabbit.subscriber.config import RabbitSubscriberConfig, RabbitSubscriberSpecificationConfig
from faststream.rabbit.subscriber.specification import RabbitSubscriberSpecification
from faststream.rabbit.subscriber.usecase import RabbitSubscriber

Receive = Callable[[IncomingMessage], None]


class _Done:
    """What is done already when somebody waits for it."""

    def __await__(self) -> Generator[Any, None, None]:
        return
        yield


_DONE = _Done()


class DirectSubscriber(RabbitSubscriber):
    """Gives each message to `receive`, in order, which has it acknowledged later."""

    receive: Receive
    stopped = False

    def consume(self, msg: IncomingMessage) -> Awaitable[None]:  # type: ignore[override]
        """Called by aio-pika, perhaps before `running`. A coroutine would cost a task for each message."""
        if not self.stopped:
            self.receive(msg)
        return _DONE

    async def stop(self) -> None:
        """What still arrives the broker delivers to somebody else."""
        self.stopped = True
        await super().stop()


def subscribe_directly(
    broker: RabbitBroker,
    queue: RabbitQueue,
    exchange: RabbitExchange,
    channel: Channel,
    receive: Receive,
    *,
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
    subscriber.receive = receive
    Registrator.subscriber(broker, subscriber)
    return subscriber
