"""A dead letter that the broker gave up delivering: whose it is, and as its own queue had it. Pure.

It may have been stored before it was parked, and only its acknowledgement was lost. So what the broker noted
about the parking is taken off again, or it would be another dead letter.
"""

import copy
from collections.abc import Mapping
from typing import Any

from aiormq.abc import DeliveredMessage
from pamqp.commands import Basic
from pamqp.header import ContentHeader

UNKNOWN_SERVICE = "unknown"
QUEUES = ".dead-letters"
DEATHS = "x-death"
# Of the first death, and on RabbitMQ 4 of the last one too, the broker keeps these apart.
NOTES = ("x-first-death-", "x-last-death-")
NOTED = ("reason", "queue", "exchange")


def service_of(delivered: DeliveredMessage) -> str:
    """Whose dead letter it was, by the broker's word. What nobody parked but a person has no service."""
    death = _parking_of(_headers_of(delivered))
    return str(death["queue"]).removesuffix(QUEUES) if death is not None else UNKNOWN_SERVICE


def as_before_parking(delivered: DeliveredMessage) -> DeliveredMessage:
    """The message as it was in its service's dead-letter queue."""
    headers = _headers_of(delivered)
    death = _parking_of(headers)
    if death is None:
        return delivered
    keys = death["routing-keys"]
    properties = copy.copy(delivered.header.properties)
    properties.headers = _headers_before(headers, keys[1:])
    # It is moved aside by the broker, for the queue behind must not let the message expire.
    properties.expiration = death.get("original-expiration") or properties.expiration
    return DeliveredMessage(
        delivery=Basic.Deliver(
            consumer_tag=delivered.consumer_tag,
            delivery_tag=delivered.delivery_tag,
            redelivered=bool(delivered.redelivered),
            exchange=str(death.get("exchange")),
            routing_key=keys[0],
        ),
        header=ContentHeader(delivered.header.weight, delivered.header.body_size, properties),
        body=delivered.body,
        channel=delivered.channel,
    )


def _headers_of(delivered: DeliveredMessage) -> dict[str, Any]:
    return dict(delivered.header.properties.headers or {})


def _parking_of(headers: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The broker's note of the parking, which stands before any other."""
    deaths = headers.get(DEATHS)
    if not isinstance(deaths, list) or not deaths or not isinstance(deaths[0], dict):
        return None
    death: Mapping[str, Any] = deaths[0]
    keys = death.get("routing-keys")
    known = str(death.get("queue")).endswith(QUEUES) and isinstance(keys, list) and keys
    return death if known else None


def _headers_before(headers: Mapping[str, Any], carbon_copies: list[Any]) -> dict[str, Any]:
    before, earlier = dict(headers), headers[DEATHS][1:]
    if earlier:
        before[DEATHS] = earlier
    else:
        del before[DEATHS]
    for prefix in NOTES:
        if not str(headers.get(f"{prefix}queue")).endswith(QUEUES):
            continue
        for name in NOTED:
            before.pop(prefix + name, None)
            # The parking was the last one, and the first one only where there was none before.
            if earlier and isinstance(earlier[0], dict) and name in earlier[0]:
                before[prefix + name] = earlier[0][name]
    if carbon_copies:
        # Addresses for copies, which the broker takes off when it gives a message another key.
        before["CC"] = carbon_copies
    return before
