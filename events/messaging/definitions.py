"""What a broker of our own imports: the topology, a user for each process, and what each user may do."""

import hashlib
import os
import re
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from events.messaging.topology import (
    ADMIN,
    EXCHANGES,
    PUBLISHER,
    RETRY_DELAYS_SECONDS,
    RETRY_EXCHANGES,
    TRACKER,
    bindings,
    parking_of,
    queues,
)
from events.service import DEAD_LETTER_EXCHANGE, EXCHANGE, PARKED_QUEUE, REDRIVE_EXCHANGE, STREAM, Service

POLICY_PRIORITY = 1


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
        "policies": [{"vhost": vhost, **entry} for entry in _policies(services)],
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
            for name, kind in EXCHANGES.items()
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


def _policies(services: Sequence[Service]) -> list[dict[str, Any]]:
    """The same as the arguments of the dead-letter queues, for those that an earlier release declared.

    It counts for more than a policy for all queues, since only one has effect on a queue, and for less than
    any to which somebody gave a priority.
    """
    return [
        {
            "name": service.dead_letter_queue,
            "pattern": f"^{re.escape(service.dead_letter_queue)}$",
            "apply-to": "queues",
            "priority": POLICY_PRIORITY,
            "definition": parking_of(service),
        }
        for service in services
    ]


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
    stream, parked = STREAM.replace(".", r"\."), PARKED_QUEUE.replace(".", r"\.")
    return [
        {"user": ADMIN, "configure": ".*", "write": ".*", "read": ".*"},
        *mine,
        {
            "user": TRACKER,
            "configure": "^$",
            "write": f"^({EXCHANGE}|{REDRIVE_EXCHANGE})$",
            "read": rf"^({stream}|.*\.dead-letters|{parked})$",
        },
        {"user": PUBLISHER, "configure": "^$", "write": f"^{EXCHANGE}$", "read": "^$"},
    ]


def _topic_permissions(services: Sequence[Service]) -> list[dict[str, str]]:
    """A service publishes only its own facts, the tracker only `saga.*`, outsiders only `order.created.*`."""
    may_publish = {service.name: rf"^{service.name}\..*" for service in services}
    may_publish |= {TRACKER: r"^saga\..*", PUBLISHER: r"^order\.created\..*"}
    publishing = [
        {"user": user, "exchange": EXCHANGE, "write": pattern, "read": ".*"}
        for user, pattern in may_publish.items()
    ]
    # Its own messages come back to it later; it must not send any to another.
    retrying = [
        {"user": service.name, "exchange": exchange, "write": f"^{service.name}$", "read": ".*"}
        for service in services
        for exchange in RETRY_EXCHANGES
    ]
    return publishing + retrying


def _password_hash(password: str) -> str:
    """RabbitMQ's salted SHA-256 (its "credentials and passwords" guide)."""
    salt = os.urandom(4)
    return b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()
