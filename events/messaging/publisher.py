"""Publishes committed messages by aio-pika: persistent, mandatory, confirmed, many in flight."""

import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractExchange
from aio_pika.exceptions import DeliveryError, PublishError

from events.messaging.connection import closed_means_away, connected, lost_means_away
from events.messaging.envelope import fields_of
from events.messaging.outbox import OutgoingMessage
from events.runtime import metrics
from events.runtime.promptly import promptly
from events.runtime.settings import ProcessSettings
from events.runtime.tracing import in_trace_of
from events.service import EXCHANGE, STREAM


class Refused(Exception):
    """This message cannot be encoded, or the broker will not have it."""


class Unroutable(Refused):
    """Nobody's queue is bound to its routing key."""


class PublishingChannel:
    """A channel on which what nobody takes is refused; good until it or its connection is closed."""

    def __init__(self, channel: AbstractChannel, user: str | None, max_bytes: int) -> None:
        self._channel = channel
        self._user = user
        self._max_bytes = max_bytes
        self._exchanges: dict[str, AbstractExchange] = {}

    @property
    def is_closed(self) -> bool:
        return self._channel.is_closed

    def on_close(self, react: Callable[[], None]) -> None:
        """Have `react` called once the channel is closed."""
        self._channel.close_callbacks.add(lambda *_: react())

    async def publish(self, message: OutgoingMessage) -> None:
        """Publish one message, and return once the broker has it on disk wherever it is routed to.

        No two with the same id may be in flight at once. Raises Refused for what concerns this message alone,
        and one of BROKER_AWAY when the channel is no good any more.
        """
        if len(message.body) > self._max_bytes:
            raise Refused(f"the body has more than {self._max_bytes} bytes")
        exchange = self._exchanges.get(message.exchange) or await self._exchange(message.exchange)
        began = time.perf_counter()
        try:
            with in_trace_of(message.traceparent), lost_means_away(), closed_means_away():
                await exchange.publish(self._encoded(message), message.routing_key, mandatory=True)
        except PublishError as error:
            raise Unroutable(str(error)) from error
        except DeliveryError as error:
            raise Refused(str(error)) from error
        except (TypeError, ValueError, OverflowError, struct.error) as error:
            # What pamqp raises for what AMQP cannot carry; nothing of it was sent.
            raise Refused(f"not to be encoded: {error}") from error
        metrics.publish_confirmed(message.wire_name, began)

    def _encoded(self, message: OutgoingMessage) -> aio_pika.Message:
        fields = fields_of(
            fact_id=message.message_id,
            wire_name=message.wire_name,
            order_id=message.order_id,
            stated_by=message.stated_by,
            stated_at=message.stated_at,
            causation_id=message.causation_id,
            traceparent=message.traceparent,
        )
        return aio_pika.Message(message.body.encode(), user_id=self._user, **fields)

    async def _exchange(self, name: str) -> AbstractExchange:
        exchange = self._exchanges[name] = await self._channel.get_exchange(name, ensure=False)
        return exchange


@asynccontextmanager
async def publishing_channel(
    settings: ProcessSettings, connection_name: str, user: str | None
) -> AsyncIterator[PublishingChannel]:
    """A channel on a connection of its own. Raises one of BROKER_AWAY when there is none to be had."""
    limit_seconds = settings.broker_connect_timeout_seconds
    async with connected(settings, connection_name, limit_seconds) as connection:
        with lost_means_away(), closed_means_away():
            channel = await promptly(_open(connection.channel(on_return_raises=True)), limit_seconds)
        yield PublishingChannel(channel, user, settings.max_message_bytes)


async def _open(channel: AbstractChannel) -> AbstractChannel:
    await channel.initialize()
    await channel.get_exchange(EXCHANGE, ensure=True)
    # A broker that has just started takes publishes, and confirms them, before it has found its streams
    # again: what it routes until then is missing there. Then this raises.
    await channel.declare_queue(STREAM, passive=True)
    return channel
