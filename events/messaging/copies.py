"""Copies of messages that others published, as AMQP and pamqp can carry them."""

import struct
from typing import Any

import aio_pika
from aio_pika.abc import AbstractMessage
from pamqp.encode import encode_table_value, field_table

from events.messaging.lenient_pamqp import SHORT_STRING_BYTES
from events.messaging.retries import (
    ATTEMPTS,
    DETAIL,
    FIRST_AT,
    HANDED_BACK,
    LOCK_WAITS,
    REASON,
    ROUTING_KEY,
)

# What pamqp has of a header that it cannot write is shown up to here.
MAX_SHOWN_CHARACTERS = 2_000
# pamqp writes no longer names.
HEADER_NAME_BYTES = 128
# Headers must fit into one frame, of 131,072 bytes by default, with what is added to them here and later.
MAX_HEADER_BYTES = 100_000
CUT = "headers_cut"

# Those of a retry are in the dead letter under its own names. The others are the broker's: addresses for
# copies, which it would send once more, and its notes about deliveries. One such note, which anybody can
# forge, has it believe that the message goes round in a circle, and hold it in `retry.<n>` for ever.
_OF_RETRIES = (ATTEMPTS, FIRST_AT, ROUTING_KEY, HANDED_BACK, LOCK_WAITS, REASON, DETAIL)
_NOT_KEPT = (*_OF_RETRIES, "CC", "BCC", "x-death", "x-delivery-count", "x-acquired-count")
_NOT_KEPT_PREFIXES = ("x-first-death-", "x-last-death-")


def copy_of(original: AbstractMessage, headers: dict[str, Any]) -> aio_pika.Message:
    """The original body and properties, untouched, with `headers` beside its own.

    Without its expiration, which would end its waiting early, and without the user that RabbitMQ verified,
    as whom nobody else may publish.
    """
    kept = {
        cut(name, HEADER_NAME_BYTES): _header_value(value)
        for name, value in original.headers.items()
        if name not in _NOT_KEPT and not name.startswith(_NOT_KEPT_PREFIXES)
    }
    return aio_pika.Message(
        body=original.body,
        headers=_fitting(kept) | headers,
        content_type=_short(original.content_type),
        content_encoding=_short(original.content_encoding),
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        priority=original.priority,
        correlation_id=_short(original.correlation_id),
        reply_to=_short(original.reply_to),
        message_id=_short(original.message_id),
        timestamp=original.timestamp,
        type=_short(original.type),
        app_id=_short(original.app_id),
    )


def bare_copy_of(original: AbstractMessage, headers: dict[str, Any]) -> aio_pika.Message:
    """The original body and what tells one message from another, for one whose copy nobody can send."""
    return aio_pika.Message(
        body=original.body,
        headers=headers,
        content_type=_short(original.content_type),
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        correlation_id=_short(original.correlation_id),
        message_id=_short(original.message_id),
        type=_short(original.type),
    )


def _fitting(headers: dict[str, Any]) -> dict[str, Any]:
    """As many of these as fit, the small ones first, and how many do not."""
    fitting: dict[str, Any] = {}
    room = MAX_HEADER_BYTES
    for name, value in sorted(headers.items(), key=_encoded_bytes):
        room -= _encoded_bytes((name, value))
        if room < 0:
            return fitting | {CUT: len(headers) - len(fitting)}
        fitting[name] = value
    return fitting


def _encoded_bytes(header: tuple[str, Any]) -> int:
    return len(field_table(dict([header])))


def _header_value(value: Any) -> Any:
    """A header as this library can write it: it reads more than it writes, such as what is not UTF-8."""
    try:
        encode_table_value(value)
    except (TypeError, ValueError, OverflowError, struct.error):
        return repr(value)[:MAX_SHOWN_CHARACTERS]
    return value


def _short(value: Any) -> Any:
    """A property as AMQP takes it."""
    return cut(value, SHORT_STRING_BYTES) if isinstance(value, str) else value


def cut(text: str, max_bytes: int) -> str:
    """As much of a text as its first so many bytes hold."""
    return text.encode(errors="replace")[:max_bytes].decode(errors="ignore")
