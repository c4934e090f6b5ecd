"""What a message in a dead-letter queue says of itself: why it is there, since when, and what it was. Pure.

Three kinds arrive: a service's, with the reason in `dead_letter_*` headers; a case, which is a fact by which
a service says that it can do no more by itself; and the broker's own, which it gave up delivering. Whatever
else is in such a queue is a stray. Every message makes a dead letter, whatever is in it.
"""

import hashlib
import json
import math
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID, uuid5

import aio_pika
from aio_pika.abc import AbstractIncomingMessage
from aiormq.abc import DeliveredMessage
from pamqp.commands import Basic

from events.messaging.envelope import Envelope, Unreadable, decode
from events.messaging.lenient_pamqp import MAX_DEPTH
from events.messaging.retries import DEAD_ROUTING_KEY, ROUTING_KEY
from events.service import DEAD_LETTER_EXCHANGE, EXCHANGE, REDRIVE_EXCHANGE
from events.telemetry.redaction import in_words
from saga_tracker.reading.stream import storable

# A message's AMQP properties are kept as text and read back, exactly; and shown as JSON to a person. The
# headers, which are nested up to MAX_DEPTH, are a table within that of the properties.
MAX_TEXT_DEPTH = MAX_DEPTH + 1
MAX_SHOWN_CHARACTERS = 2_000
# A table is an object within the object that is its tag.
_MAX_BRACKETS = 2 * MAX_TEXT_DEPTH + 1
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]')

# JSON has no such things. Every object in the text is one of these, tables (of headers) included.
_TABLE = "table"
_TAGS: dict[str, tuple[tuple[type, ...], Callable[[Any], Any], Callable[[Any], Any]]] = {
    "bytes": (
        (bytes, bytearray),
        lambda value: b64encode(value).decode(),
        lambda text: bytearray(b64decode(text)),
    ),
    "timestamp": ((datetime,), datetime.isoformat, datetime.fromisoformat),
    "decimal": ((Decimal,), str, Decimal),
}


def as_text(properties: Mapping[str, Any]) -> str:
    """Properties by their AMQP names, headers among them, as JSON in ASCII; equal ones give equal texts."""
    return json.dumps(_tagged(dict(properties)), sort_keys=True)


def from_text(text: str) -> dict[str, Any]:
    """The properties that `as_text` was given; bytes come back as a bytearray.

    An earlier release read tables to any depth: what is nested deeper than now is there as text.
    """
    properties: dict[str, Any] = _untagged(json.loads(_cut(text)), depth=1)
    return properties


def _cut(text: str) -> str:
    """The same JSON, with strings in place of what nests too deep to be parsed: parsing it is recursive."""
    pieces, depth, copied, start = [], 0, 0, 0
    for found in _STRING_OR_BRACKET.finditer(text):
        if found[0] in ("{", "["):
            depth += 1
            if depth == _MAX_BRACKETS + 1:
                start = found.start()
        elif found[0] in ("}", "]"):
            depth -= 1
            if depth == _MAX_BRACKETS:
                deeper = text[start : min(found.end(), start + MAX_SHOWN_CHARACTERS)]
                pieces += [text[copied:start], json.dumps(deeper)]
                copied = found.end()
    return "".join([*pieces, text[copied:]])


def properties_of(header: Basic.Properties) -> dict[str, Any]:
    """Those that are set, by their names in AMQP."""
    found = {name: getattr(header, name) for name in Basic.Properties.__slots__}
    found["type"] = found.pop("message_type")
    return {name: value for name, value in found.items() if value not in (None, "")}


def shown(value: Any) -> Any:
    """A value of properties or headers for a person, in plain JSON."""
    match value:
        case dict():
            return {name: shown(each) for name, each in value.items()}
        case list():
            return [shown(each) for each in value]
        case bytes() | bytearray():
            return {"base64": b64encode(value).decode()}
        case datetime():
            return value.isoformat()
        case float() if not math.isfinite(value):
            return str(value)
        case None | bool() | int() | float() | str():
            return value
        case _:
            return str(value)


def _tagged(value: Any) -> Any:
    if isinstance(value, list):
        return [_tagged(each) for each in value]
    if isinstance(value, dict):
        return {_TABLE: {name: _tagged(each) for name, each in value.items()}}
    for tag, (kinds, to_json, _) in _TAGS.items():
        if isinstance(value, kinds):
            return {tag: to_json(value)}
    return value


def _untagged(value: Any, depth: int) -> Any:
    if isinstance(value, dict):
        ((tag, inner),) = value.items()
        if tag != _TABLE:
            return _TAGS[tag][2](inner)
        if depth <= MAX_TEXT_DEPTH:
            return {name: _untagged(each, depth + 1) for name, each in inner.items()}
    elif not isinstance(value, list):
        return value
    elif depth <= MAX_TEXT_DEPTH:
        return [_untagged(each, depth + 1) for each in value]
    return json.dumps(value)[:MAX_SHOWN_CHARACTERS]


MAX_NAME_CHARACTERS = 255
MAX_REASON_CHARACTERS = 200
MAX_DETAIL_CHARACTERS = 2_000
# An order's id is looked for in a body of up to this size.
MAX_SEARCHED_BYTES = 1_000_000
MAX_ATTEMPTS = 2**31 - 1

# On a replayed message: which dead letter it was.
REPLAY_OF = "replayed_letter_id"
# The broker counts deliveries here: all that differs when it delivers a dead letter again.
DELIVERY_COUNT = "x-delivery-count"

_DEAD_LETTERS = UUID("5d0b7c1e-8c8f-5e0a-9a53-3f3f2c6f8f10")
_EARLIEST, _LATEST = datetime(2000, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)


class DeadLetterKind(StrEnum):
    """Who says that a message is dead, and why."""

    UNUSABLE = "unusable"
    CASE = "case"
    UNDELIVERED = "undelivered"
    STRAY = "stray"


class DeadLetterState(StrEnum):
    """What became of a dead letter. Only an open one can be replayed or discarded."""

    OPEN = "open"
    REPLAYED = "replayed"
    DISCARDED = "discarded"
    RESOLVED = "resolved"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A dead letter as it is stored. `first_at` and `last_at` are of the attempts, where they are known."""

    letter_id: UUID
    service: str
    kind: str
    reason: str
    detail: str
    first_at: datetime | None
    last_at: datetime | None
    attempts: int | None
    message_id: str | None
    wire_name: str | None
    stated_by: str | None
    order_id: UUID | None
    replay_of: UUID | None
    routing_key: str
    properties: str
    body: bytes


@dataclass(frozen=True, slots=True)
class _Verdict:
    kind: DeadLetterKind
    reason: str
    detail: str
    first_at: datetime | None = None
    last_at: datetime | None = None
    attempts: int | None = None


def read_dead_letter(delivered: DeliveredMessage, service: str) -> DeadLetter:
    """The dead letter that a message from a service's dead-letter queue is."""
    message = aio_pika.IncomingMessage(delivered)
    headers = dict(message.headers)
    routing_key = _routing_key_of(message, headers)
    verdict = _verdict_on(message, headers, service)
    return DeadLetter(
        **_raw(delivered, service, routing_key),
        kind=verdict.kind.value,
        reason=_bounded(verdict.reason, MAX_REASON_CHARACTERS) or "unknown",
        detail=_bounded(verdict.detail, MAX_DETAIL_CHARACTERS),
        first_at=verdict.first_at,
        last_at=verdict.last_at,
        attempts=verdict.attempts,
        message_id=_name(message.message_id),
        wire_name=_name(message.type) or routing_key or None,
        stated_by=_name(message.app_id),
        order_id=_order_of(message, headers),
        replay_of=_uuid(headers.get(REPLAY_OF)),
    )


def bare_dead_letter(delivered: DeliveredMessage, service: str, why: BaseException) -> DeadLetter:
    """A dead letter of which only properties and body are kept, for one that is not to be read."""
    return DeadLetter(
        **_raw(delivered, service, ""),
        kind=DeadLetterKind.STRAY.value,
        reason=_bounded(type(why).__name__, MAX_REASON_CHARACTERS),
        detail=_bounded(in_words(why), MAX_DETAIL_CHARACTERS),
        first_at=None,
        last_at=None,
        attempts=None,
        message_id=None,
        wire_name=None,
        stated_by=None,
        order_id=None,
        replay_of=None,
    )


def _raw(delivered: DeliveredMessage, service: str, routing_key: str) -> dict[str, Any]:
    """What is kept of the message itself, and the id that follows from that."""
    properties = properties_of(delivered.header.properties)
    headers = dict(properties.get("headers") or {})
    headers.pop(DELIVERY_COUNT, None)
    text = as_text(properties | {"headers": headers})
    parts = (service, str(delivered.routing_key), text)
    digest = hashlib.sha256("\n".join(parts).encode() + b"\n" + delivered.body).hexdigest()
    return {
        "letter_id": uuid5(_DEAD_LETTERS, digest),
        "service": service,
        "routing_key": routing_key,
        "properties": text,
        "body": delivered.body,
    }


def _verdict_on(message: AbstractIncomingMessage, headers: Mapping[str, Any], service: str) -> _Verdict:
    death = _last_death(headers)
    if death is not None:
        at = _instant(death.get("time"))
        why = _text(death.get("reason")) or "dead_lettered"
        given = f"the broker gave up delivering it from {_text(death.get('queue'))}: {why}"
        return _Verdict(DeadLetterKind.UNDELIVERED, why, given, at, at)
    if "dead_letter_reason" in headers:
        last_at = _instant(headers.get("dead_letter_at"))
        return _Verdict(
            DeadLetterKind.UNUSABLE,
            _text(headers["dead_letter_reason"]),
            _text(headers.get("dead_letter_detail")),
            _instant(headers.get("dead_letter_first_at")) or last_at,
            last_at,
            _count(headers.get("dead_letter_attempts")),
        )
    published = _published_in(message)
    if published is not None and published.fact.case and published.fact.owner == service:
        why = getattr(published.fact, "reason", None) or published.fact.wire_name
        at = _instant(published.stated_at)
        return _Verdict(DeadLetterKind.CASE, why, (type(published.fact).__doc__ or "").strip(), at, at)
    return _Verdict(DeadLetterKind.STRAY, "unexplained", "nothing on it says why it is here")


def _published_in(message: AbstractIncomingMessage) -> Envelope | None:
    try:
        return decode(message, message.routing_key)
    except Unreadable:
        return None


def _last_death(headers: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What the broker says of its last dead-lettering of the message, if it was the last to handle it.

    A service takes this note off what it sends itself.
    """
    deaths = headers.get("x-death")
    if isinstance(deaths, list) and deaths and isinstance(deaths[0], dict):
        return deaths[0]
    return None


def _routing_key_of(message: AbstractIncomingMessage, headers: Mapping[str, Any]) -> str:
    """The key under which the message was first sent, by the word of the broker or of the service.

    Never by that of whoever published it: a replayed message counts as what this key says.
    """
    given: Any = None
    death = _last_death(headers)
    if death is not None and death.get("exchange") == REDRIVE_EXCHANGE:
        given = headers.get(ROUTING_KEY) or headers.get(DEAD_ROUTING_KEY)
    elif death is not None:
        keys = death.get("routing-keys")
        given = keys[0] if isinstance(keys, list) and keys else None
    elif message.exchange == EXCHANGE:
        given = message.routing_key
    elif message.exchange == DEAD_LETTER_EXCHANGE:
        given = headers.get(DEAD_ROUTING_KEY)
    return _name(given) or ""


def _order_of(message: AbstractIncomingMessage, headers: Mapping[str, Any]) -> UUID | None:
    """The order a message says it is about, on its envelope or in its body."""
    given = _uuid(headers.get("order_id")) or _uuid(message.correlation_id)
    if given is not None or len(message.body) > MAX_SEARCHED_BYTES:
        return given
    try:
        body = json.loads(message.body)
    except (ValueError, RecursionError):
        return None
    return _uuid(body.get("order_id")) if isinstance(body, dict) else None


def _text(value: Any) -> str:
    if isinstance(value, bytes | bytearray):
        return value.decode(errors="replace")
    return "" if value is None else str(value)


def _bounded(text: str, max_characters: int) -> str:
    return storable(text[:max_characters]) or ""


def _name(value: Any) -> str | None:
    return _bounded(_text(value), MAX_NAME_CHARACTERS) or None


def _uuid(value: Any) -> UUID | None:
    try:
        return UUID(_text(value))
    except ValueError:
        return None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and 0 < value <= MAX_ATTEMPTS else None


def _instant(value: Any) -> datetime | None:
    """An instant, unless it cannot be meant."""
    try:
        given = value if isinstance(value, datetime) else datetime.fromisoformat(_text(value))
    except ValueError:
        return None
    given = given if given.tzinfo else given.replace(tzinfo=UTC)
    return given if _EARLIEST < given < _LATEST else None
