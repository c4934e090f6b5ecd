"""How a relay publishes, a service's or the tracker's: on a connection of its own, each message confirmed."""

import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

import aio_pika
from aiormq import Channel
from opentelemetry.trace import SpanKind
from pamqp.commands import Basic

from events.runtime import metrics
from events.runtime.broker import BROKER_AWAY, lasting_connection_url, lost_means_away
from events.runtime.promptly import promptly
from events.runtime.settings import ProcessSettings
from events.runtime.tracing import Work, work
from events.service import EXCHANGE, STREAM

# An orderly end takes milliseconds.
CLOSE_TIMEOUT_SECONDS = 2.0


@asynccontextmanager
async def publishing_channel(
    settings: ProcessSettings, connection_name: str, connect_timeout_seconds: float
) -> AsyncIterator[Channel]:
    """A channel on which what nobody takes raises. Raises one of BROKER_AWAY when there is none to be had."""
    connection = await aio_pika.connect(
        lasting_connection_url(settings),
        client_properties={"connection_name": connection_name},
        timeout=connect_timeout_seconds,
    )
    try:
        channel = await connection.channel(on_return_raises=True)
        await channel.get_exchange(EXCHANGE, ensure=True)
        # A broker that has just started takes publishes, and confirms them, before it has found its streams
        # again: what it routes until then is missing there. Then this raises.
        await channel.declare_queue(STREAM, passive=True)
        yield cast(Channel, await channel.get_underlay_channel())
    finally:
        # A connection that does not answer any more is left to itself: its heartbeat will end it.
        with contextlib.suppress(*BROKER_AWAY):
            await promptly(connection.close(), CLOSE_TIMEOUT_SECONDS)


async def publish_confirmed(
    channel: Channel, body: str, fields: Mapping[str, Any], *, exchange: str, routing_key: str
) -> None:
    """Publish and await the confirm: beneath aio-pika, which would wait for each frame to leave.

    `fields` are AMQP's properties under AMQP's names. Raises one of BROKER_AWAY.
    """
    began = time.perf_counter()
    named = {"message_type" if name == "type" else name: value for name, value in fields.items()}
    with _span_of(fields, exchange, routing_key) as span, lost_means_away():
        named["headers"] = {**fields["headers"], "traceparent": span.traceparent}
        await channel.basic_publish(
            body.encode(),
            exchange=exchange,
            routing_key=routing_key,
            properties=Basic.Properties(**named),
            mandatory=True,
            wait=False,
        )
    metrics.publish_confirmed(fields["type"], began)


def _span_of(fields: Mapping[str, Any], exchange: str, routing_key: str) -> Work:
    """From now to the broker's confirm, by OpenTelemetry's conventions for messaging."""
    attributes = {
        "messaging.system": "rabbitmq",
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "messaging.destination.name": f"{exchange}:{routing_key}",
        "messaging.rabbitmq.destination.routing_key": routing_key,
        "messaging.message.id": fields["message_id"],
        "messaging.message.conversation_id": fields["correlation_id"],
        "saga.order_id": fields["correlation_id"],
        "saga.fact": fields["type"],
    }
    traceparent = fields["headers"].get("traceparent")
    return work(f"publish {fields['type']}", traceparent, SpanKind.PRODUCER, attributes)
