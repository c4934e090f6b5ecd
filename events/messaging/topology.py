"""What RabbitMQ has to know: exchanges, queues and bindings.

Everything derives from the services' types. A broker of our own learns it from `definitions.py`, one that
somebody else runs from `declare`.

No queue drops a message, whatever limit it meets. A full one refuses what is published to it. What expires,
is rejected or is delivered too often is dead-lettered at least once: it stays until the next queue has it.
The last of these, `dead-letters.parked`, is a classic queue, for only these have no limit of deliveries: that
of a quorum queue cannot be lifted by an argument, for where a policy sets one too, the smaller one counts.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import aio_pika
from aio_pika import ExchangeType
from aio_pika.abc import AbstractConnection
from aiormq.exceptions import ChannelPreconditionFailed

from events.service import (
    DEAD_LETTER_EXCHANGE,
    EXCHANGE,
    PARKED_EXCHANGE,
    PARKED_QUEUE,
    REDRIVE_EXCHANGE,
    STREAM,
    Service,
)
from events.telemetry.log import log

MAX_QUEUE_LENGTH = 1_000_000
MAX_STREAM_BYTES = 20_000_000_000
STREAM_SEGMENT_BYTES = 100_000_000
# RabbitMQ 4 drops a message after 20 deliveries unless configured otherwise; here it is dead-lettered, later.
DELIVERY_LIMIT = 1_000

# How long a message that could not be handled waits before each further attempt. Each delay has a queue that
# all services share; what has waited goes back to the service whose name is its routing key.
RETRY_DELAYS_SECONDS = (1, 5, 25)

TRACKER = "tracker"
PUBLISHER = "publisher"
ADMIN = "admin"


def service_queue_arguments(service: Service) -> dict[str, Any]:
    """A replicated queue that refuses to overflow, and loses nothing past its delivery limit."""
    return {
        "x-queue-type": "quorum",
        "x-delivery-limit": DELIVERY_LIMIT,
        "x-max-length": MAX_QUEUE_LENGTH,
        "x-overflow": "reject-publish",
        "x-dead-letter-exchange": DEAD_LETTER_EXCHANGE,
        "x-dead-letter-routing-key": service.name,
        "x-dead-letter-strategy": "at-least-once",
    }


def dead_letter_queue_arguments(service: Service) -> dict[str, Any]:
    """A replicated queue whose dead letters are parked when the broker gives up delivering them."""
    parking = {f"x-{name}": value for name, value in parking_of(service).items()}
    return earlier_dead_letter_queue_arguments() | parking


def earlier_dead_letter_queue_arguments() -> dict[str, Any]:
    """As earlier releases declared it. What a queue was declared with cannot be changed."""
    return {"x-queue-type": "quorum", "x-max-length": MAX_QUEUE_LENGTH, "x-overflow": "reject-publish"}


def parking_of(service: Service) -> dict[str, str]:
    """Where its dead letters go when they can stay no longer, in the words of a policy."""
    return {
        "dead-letter-exchange": PARKED_EXCHANGE,
        "dead-letter-routing-key": service.name,
        "dead-letter-strategy": "at-least-once",
    }


def parked_queue_arguments() -> dict[str, Any]:
    """A queue that nothing leaves but by acknowledgement."""
    return {"x-queue-type": "classic", "x-max-length": MAX_QUEUE_LENGTH, "x-overflow": "reject-publish"}


def retry_exchange(attempt: int) -> str:
    """Where a message goes after its `attempt`th failure, counted from 1."""
    return f"retry.{attempt}"


def retry_queue_arguments(delay_seconds: float) -> dict[str, Any]:
    """A queue that nobody consumes: what is in it leaves after the delay."""
    return {
        "x-queue-type": "quorum",
        "x-message-ttl": int(delay_seconds * 1_000),
        "x-max-length": MAX_QUEUE_LENGTH,
        "x-overflow": "reject-publish",
        "x-dead-letter-exchange": REDRIVE_EXCHANGE,
        "x-dead-letter-strategy": "at-least-once",
    }


def stream_arguments() -> dict[str, Any]:
    return {
        "x-queue-type": "stream",
        "x-max-length-bytes": MAX_STREAM_BYTES,
        "x-stream-max-segment-size-bytes": STREAM_SEGMENT_BYTES,
    }


def queues(
    services: Iterable[Service], retry_delays_seconds: Sequence[float] = RETRY_DELAYS_SECONDS
) -> dict[str, dict[str, Any]]:
    """Every queue by name, with its arguments. There are as many delays as `RETRY_DELAYS_SECONDS` has."""
    found: dict[str, dict[str, Any]] = {STREAM: stream_arguments(), PARKED_QUEUE: parked_queue_arguments()}
    for attempt, delay_seconds in enumerate(retry_delays_seconds, 1):
        found[retry_exchange(attempt)] = retry_queue_arguments(delay_seconds)
    for service in services:
        found[service.queue] = service_queue_arguments(service)
        found[service.dead_letter_queue] = dead_letter_queue_arguments(service)
    return found


def bindings(services: Iterable[Service]) -> list[tuple[str, str, str]]:
    """Every binding: exchange, routing key, queue."""
    found = [(EXCHANGE, "#", STREAM), (PARKED_EXCHANGE, "", PARKED_QUEUE)]
    # What is replayed of a message that the stream has not, or has under an id that is no good.
    found.append((REDRIVE_EXCHANGE, TRACKER, STREAM))
    found += [(name, "#", name) for name in RETRY_EXCHANGES]
    for service in services:
        found += [(EXCHANGE, key, service.queue) for key in service.binding_keys]
        found += [(EXCHANGE, key, service.dead_letter_queue) for key in service.case_keys]
        found.append((DEAD_LETTER_EXCHANGE, service.name, service.dead_letter_queue))
        found.append((REDRIVE_EXCHANGE, service.name, service.queue))
    return found


async def declare(
    services: Sequence[Service],
    broker_url: str,
    retry_delays_seconds: Sequence[float] = RETRY_DELAYS_SECONDS,
) -> None:
    """Declare exchanges, queues and bindings over AMQP, as a user who may configure them.

    A dead-letter queue that an earlier release declared stays as it is: a warning says which policy it needs.
    """
    parkings = {service.dead_letter_queue: parking_of(service) for service in services}
    async with await aio_pika.connect(broker_url) as connection, connection.channel() as channel:
        for name, kind in EXCHANGES.items():
            await channel.declare_exchange(name, kind, durable=True)
        for name, arguments in queues(services, retry_delays_seconds).items():
            try:
                await _declare_queue(connection, name, arguments)
            except ChannelPreconditionFailed:
                if name not in parkings:
                    raise
                await _declare_queue(connection, name, earlier_dead_letter_queue_arguments())
                log.warning("dead_letters_need_a_policy", queue=name, policy=parkings[name])
        for exchange, key, name in bindings(services):
            await (await channel.get_queue(name, ensure=False)).bind(exchange, key)


async def _declare_queue(connection: AbstractConnection, name: str, arguments: dict[str, Any]) -> None:
    """On a channel of its own, which is lost when the broker says no."""
    async with connection.channel() as channel:
        await channel.declare_queue(name, durable=True, arguments=arguments)


RETRY_EXCHANGES = [retry_exchange(attempt) for attempt in range(1, len(RETRY_DELAYS_SECONDS) + 1)]
EXCHANGES = {
    EXCHANGE: ExchangeType.TOPIC,
    DEAD_LETTER_EXCHANGE: ExchangeType.DIRECT,
    PARKED_EXCHANGE: ExchangeType.FANOUT,
    REDRIVE_EXCHANGE: ExchangeType.DIRECT,
    # Topic exchanges only because these alone can be limited in which keys a user may write.
    **dict.fromkeys(RETRY_EXCHANGES, ExchangeType.TOPIC),
}
