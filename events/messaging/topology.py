"""What RabbitMQ has to know: exchanges, queues, bindings, users and what each may do.

Everything derives from the services' types. A broker of our own learns it from `definitions`, one that
somebody else runs from `declare`.
"""

import hashlib
import os
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import aio_pika
from aio_pika import ExchangeType

from events.service import DEAD_LETTER_EXCHANGE, EXCHANGE, REDRIVE_EXCHANGE, STREAM, Service

MAX_QUEUE_LENGTH = 1_000_000
MAX_STREAM_BYTES = 20_000_000_000
STREAM_SEGMENT_BYTES = 100_000_000
# RabbitMQ 4 drops a message after 20 deliveries unless told otherwise; here it is dead-lettered, later.
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


def dead_letter_queue_arguments() -> dict[str, Any]:
    return {"x-queue-type": "quorum", "x-max-length": MAX_QUEUE_LENGTH, "x-overflow": "reject-publish"}


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
    found: dict[str, dict[str, Any]] = {STREAM: stream_arguments()}
    for attempt, delay_seconds in enumerate(retry_delays_seconds, 1):
        found[retry_exchange(attempt)] = retry_queue_arguments(delay_seconds)
    for service in services:
        found[service.queue] = service_queue_arguments(service)
        found[service.dead_letter_queue] = dead_letter_queue_arguments()
    return found


def bindings(services: Iterable[Service]) -> list[tuple[str, str, str]]:
    """Every binding: exchange, routing key, queue."""
    # What is replayed of a message that the stream has not, or has under an id that is no good.
    found = [(EXCHANGE, "#", STREAM), (REDRIVE_EXCHANGE, TRACKER, STREAM)]
    found += [(name, "#", name) for name in _RETRY_EXCHANGES]
    for service in services:
        found += [(EXCHANGE, key, service.queue) for key in service.binding_keys]
        found += [(EXCHANGE, key, service.dead_letter_queue) for key in service.case_keys]
        found.append((DEAD_LETTER_EXCHANGE, service.name, service.dead_letter_queue))
        found.append((REDRIVE_EXCHANGE, service.name, service.queue))
    return found


def user_names(services: Iterable[Service]) -> list[str]:
    """The users `definitions` wants a password for."""
    return [ADMIN, *(service.name for service in services), TRACKER, PUBLISHER]


def definitions(
    services: Sequence[Service],
    passwords: Mapping[str, str],
    vhost: str = "/",
    retry_delays_seconds: Sequence[float] = RETRY_DELAYS_SECONDS,
) -> dict[str, Any]:
    """What `rabbitmqctl import_definitions` takes. `passwords` is by user name."""
    return {
        "users": [
            {
                "name": name,
                "password_hash": _password_hash(passwords[name]),
                "hashing_algorithm": "rabbit_password_hashing_sha256",
                "tags": ["administrator"] if name == ADMIN else [],
                "limits": {},
            }
            for name in user_names(services)
        ],
        "vhosts": [{"name": vhost}],
        "permissions": [{"vhost": vhost, **entry} for entry in _permissions(services)],
        "topic_permissions": [{"vhost": vhost, **entry} for entry in _topic_permissions(services)],
        "exchanges": [
            {
                "name": name,
                "vhost": vhost,
                "type": kind.value,
                "durable": True,
                "auto_delete": False,
                "internal": False,
                "arguments": {},
            }
            for name, kind in _EXCHANGES.items()
        ],
        "queues": [
            {"name": name, "vhost": vhost, "durable": True, "auto_delete": False, "arguments": arguments}
            for name, arguments in queues(services, retry_delays_seconds).items()
        ],
        "bindings": [
            {
                "source": exchange,
                "vhost": vhost,
                "destination": queue,
                "destination_type": "queue",
                "routing_key": key,
                "arguments": {},
            }
            for exchange, key, queue in bindings(services)
        ],
    }


async def declare(
    services: Sequence[Service],
    broker_url: str,
    retry_delays_seconds: Sequence[float] = RETRY_DELAYS_SECONDS,
) -> None:
    """Declare exchanges, queues and bindings over AMQP, as a user who may configure them."""
    async with await aio_pika.connect(broker_url) as connection, connection.channel() as channel:
        exchanges = {
            name: await channel.declare_exchange(name, kind, durable=True)
            for name, kind in _EXCHANGES.items()
        }
        declared = {
            name: await channel.declare_queue(name, durable=True, arguments=arguments)
            for name, arguments in queues(services, retry_delays_seconds).items()
        }
        for exchange, key, queue in bindings(services):
            await declared[queue].bind(exchanges[exchange], routing_key=key)


_RETRY_EXCHANGES = [retry_exchange(attempt) for attempt in range(1, len(RETRY_DELAYS_SECONDS) + 1)]
_EXCHANGES = {
    EXCHANGE: ExchangeType.TOPIC,
    DEAD_LETTER_EXCHANGE: ExchangeType.DIRECT,
    REDRIVE_EXCHANGE: ExchangeType.DIRECT,
    # Topic exchanges only because these alone can be told which keys a user may write.
    **dict.fromkeys(_RETRY_EXCHANGES, ExchangeType.TOPIC),
}


def _permissions(services: Sequence[Service]) -> list[dict[str, str]]:
    """Who may configure, write and read what: a service reads its own queue and nothing else."""
    mine = [
        {
            "user": service.name,
            "configure": "^$",
            "write": rf"^({EXCHANGE}|{DEAD_LETTER_EXCHANGE}|retry\.\d+)$",
            "read": rf"^{service.name}\.facts$",
        }
        for service in services
    ]
    stream = STREAM.replace(".", r"\.")
    return [
        {"user": ADMIN, "configure": ".*", "write": ".*", "read": ".*"},
        *mine,
        {
            "user": TRACKER,
            "configure": "^$",
            "write": f"^({EXCHANGE}|{REDRIVE_EXCHANGE})$",
            "read": rf"^({stream}|.*\.dead-letters)$",
        },
        {"user": PUBLISHER, "configure": "^$", "write": f"^{EXCHANGE}$", "read": "^$"},
    ]


def _topic_permissions(services: Sequence[Service]) -> list[dict[str, str]]:
    """A service states only its own facts, the tracker only `saga.*`, outsiders only `order.created.*`."""
    may_state = {service.name: rf"^{service.name}\..*" for service in services}
    may_state |= {TRACKER: r"^saga\..*", PUBLISHER: r"^order\.created\..*"}
    stating = [
        {"user": user, "exchange": EXCHANGE, "write": pattern, "read": ".*"}
        for user, pattern in may_state.items()
    ]
    # Its own messages come back to it later; it must not send any to another.
    retrying = [
        {"user": service.name, "exchange": exchange, "write": f"^{service.name}$", "read": ".*"}
        for service in services
        for exchange in _RETRY_EXCHANGES
    ]
    return stating + retrying


def _password_hash(password: str) -> str:
    """RabbitMQ's salted SHA-256 (its "credentials and passwords" guide)."""
    salt = os.urandom(4)
    return b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()
