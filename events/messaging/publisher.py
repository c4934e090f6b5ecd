"""Publishes committed messages by aio-pika: persistent, mandatory, confirmed, many in flight."""

import struct
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import cycle
from typing import Any, cast

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import DeliveryError, PublishError
from aiormq import Channel as Beneath
from aiormq import spec

from events.messaging.connection import closed_means_away, connected, lost_means_away
from events.messaging.envelope import fields_of
from events.runtime.loops import promptly
from events.runtime.settings import ProcessSettings
from events.service import EXCHANGE, STREAM
from events.storage.outbox import OutgoingMessage
from events.telemetry import metrics
from events.telemetry.redaction import in_words
from events.telemetry.tracing import in_trace_of, is_tracing


class Refused(Exception):
    """This message cannot be encoded, or the broker will not have it."""


class Unroutable(Refused):
    """Nobody's queue is bound to its routing key."""


class PublishingChannels:
    """Channels of one connection on which what nobody takes is refused; good until any of them is closed.

    By aiormq's channel, beneath aio-pika's, nobody waits for a message to be written before the next one is
    passed on. So what is published together is written and confirmed together, on one channel. Where it is
    traced, it is published by aio-pika's, which waits, so there have to be several.
    """

    def __init__(
        self,
        connection: AbstractConnection,
        channels: Sequence[tuple[AbstractChannel, Beneath]],
        user: str | None,
        max_bytes: int,
    ) -> None:
        self.connection = connection
        self._channels = channels
        self._turns = cycle(channels)
        self._user = user
        self._max_bytes = max_bytes

    @property
    def is_closed(self) -> bool:
        return any(channel.is_closed for channel, _ in self._channels)

    def on_close(self, react: Callable[[], None]) -> None:
        """Have `react` called once a channel is closed."""
        for channel, _ in self._channels:
            channel.close_callbacks.add(lambda *_: react())

    async def publish(self, message: OutgoingMessage) -> None:
        """Publish one message, and return once the broker has it on disk wherever it is routed to.

        No two with the same id may be in flight at once. Raises Refused for what concerns this message alone,
        and one of BROKER_AWAY when the channel is no good any more.
        """
        if len(message.body) > self._max_bytes:
            raise Refused(f"the body has more than {self._max_bytes} bytes")
        channel, beneath = next(self._turns)
        began = time.perf_counter()
        try:
            with lost_means_away(), closed_means_away():
                if is_tracing():
                    with in_trace_of(message.traceparent):
                        await self._publish_traced(channel, message)
                else:
                    await beneath.basic_publish(
                        message.body.encode(),
                        exchange=message.exchange,
                        routing_key=message.routing_key,
                        properties=self._properties_of(message),
                        mandatory=True,
                        wait=False,
                    )
        except PublishError as error:
            raise Unroutable(in_words(error)) from error
        except DeliveryError as error:
            raise Refused(in_words(error)) from error
        except (TypeError, ValueError, OverflowError, struct.error) as error:
            # What pamqp raises for what AMQP cannot carry; nothing of it was sent.
            raise Refused(f"not to be encoded: {in_words(error)}") from error
        metrics.publish_confirmed(message.wire_name, began)

    async def _publish_traced(self, channel: AbstractChannel, message: OutgoingMessage) -> None:
        """By what the instrumentation of aio-pika makes spans of."""
        exchange = await channel.get_exchange(message.exchange, ensure=False)
        sent = aio_pika.Message(message.body.encode(), user_id=self._user, **_fields_of(message))
        await exchange.publish(sent, message.routing_key, mandatory=True)

    def _properties_of(self, message: OutgoingMessage) -> spec.Basic.Properties:
        fields = _fields_of(message)
        return spec.Basic.Properties(message_type=fields.pop("type"), user_id=self._user, **fields)


def _fields_of(message: OutgoingMessage) -> dict[str, Any]:
    return fields_of(
        fact_id=message.message_id,
        wire_name=message.wire_name,
        order_id=message.order_id,
        stated_by=message.stated_by,
        stated_at=message.stated_at,
        causation_id=message.causation_id,
        traceparent=message.traceparent,
    )


@asynccontextmanager
async def publishing_channels(
    settings: ProcessSettings, connection_name: str, user: str | None
) -> AsyncIterator[PublishingChannels]:
    """Channels on a connection of their own. Raises one of BROKER_AWAY when there is none to be had."""
    limit_seconds = settings.broker_connect_timeout_seconds
    async with connected(settings, connection_name, limit_seconds) as connection:
        with lost_means_away(), closed_means_away():
            channels = await promptly(_open(connection, settings.relay_channels), limit_seconds)
        yield PublishingChannels(connection, channels, user, settings.max_message_bytes)


async def _open(connection: AbstractConnection, count: int) -> list[tuple[AbstractChannel, Beneath]]:
    channels = [connection.channel(on_return_raises=True) for _ in range(count if is_tracing() else 1)]
    for channel in channels:
        await channel.initialize()
    await channels[0].get_exchange(EXCHANGE, ensure=True)
    # A broker that has just started takes publishes, and confirms them, before it has found its streams
    # again: what it routes until then is missing there. Then this raises.
    await channels[0].declare_queue(STREAM, passive=True)
    return [(channel, cast(Beneath, await channel.get_underlay_channel())) for channel in channels]
