"""A fact in AMQP's own terms, and the way back: encode on the way out, decode and upcast on the way in.

message_id      the fact id: uuid5 of its causation id, the publishing service and its index
type            the wire name, which is the routing key too
app_id          the publishing service
user_id         what a service's relay publishes as, and the broker vouches for
correlation_id  the saga, which is the order
timestamp       when it was published (whole seconds in AMQP; header `stated_at` has microseconds)
headers         causation_id, order_id, stated_at, and the W3C traceparent
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol
from uuid import UUID, uuid5

from aio_pika import DeliveryMode, Message
from pydantic import ValidationError

from events.facts.base import Fact, SupersededFact, fact_type
from events.messaging.lenient_pamqp import MAX_DEPTH, CutHeaders
from events.strict_json import JSON_TYPE, is_json_type, parsed
from events.telemetry.tracing import trace_id

PERSISTENT = int(DeliveryMode.PERSISTENT)


class Received(Protocol):
    """What is read of a message that arrived, by aio-pika's names."""

    @property
    def message_id(self) -> str | None: ...
    @property
    def type(self) -> str | None: ...
    @property
    def app_id(self) -> str | None: ...
    @property
    def timestamp(self) -> datetime | None: ...
    @property
    def content_type(self) -> str | None: ...
    @property
    def headers(self) -> Mapping[str, Any]: ...
    @property
    def body(self) -> bytes: ...


class Unreadable(Exception):
    """A message that no redelivery will make readable. `reason` is a short code, the text says more."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Envelope:
    """A published fact: what was published, by whom, when, and because of what."""

    fact_id: UUID
    fact: Fact
    stated_by: str
    stated_at: datetime
    causation_id: UUID | None = None
    traceparent: str | None = None


def derive_fact_id(causation_id: UUID, service: str, index: int) -> UUID:
    """The id of the index-th fact a service publishes because of a message: a retry has the same id."""
    return uuid5(causation_id, f"{service}:{index}")


def encode(envelope: Envelope) -> Message:
    """The persistent AMQP message of a fact, with headers of its own (they must not be shared)."""
    return Message(envelope.fact.model_dump_json().encode(), **properties_of(envelope))


def properties_of(envelope: Envelope) -> dict[str, Any]:
    """Its AMQP properties under AMQP's names."""
    return fields_of(
        fact_id=envelope.fact_id,
        wire_name=envelope.fact.wire_name,
        order_id=envelope.fact.order_id,
        stated_by=envelope.stated_by,
        stated_at=envelope.stated_at,
        causation_id=envelope.causation_id,
        traceparent=envelope.traceparent,
    )


def fields_of(
    *,
    fact_id: UUID,
    wire_name: str,
    order_id: UUID,
    stated_by: str,
    stated_at: datetime,
    causation_id: UUID | None,
    traceparent: str | None,
) -> dict[str, Any]:
    """A fact's AMQP properties under AMQP's names, its headers among them."""
    order = str(order_id)
    headers = {"order_id": order, "stated_at": stated_at.isoformat()}
    if causation_id is not None:
        headers["causation_id"] = str(causation_id)
    if traceparent is not None and trace_id(traceparent):
        headers["traceparent"] = traceparent
    return {
        "content_type": JSON_TYPE,
        "delivery_mode": PERSISTENT,
        "message_id": str(fact_id),
        "type": wire_name,
        "app_id": stated_by,
        "correlation_id": order,
        "timestamp": stated_at,
        "headers": headers,
    }


def decode(message: Received, routing_key: str | None, max_bytes: int | None = None) -> Envelope:
    """Read a message; an older version comes back as the newest.

    `type` may be left out by an outside publisher: the routing key says the same. It must not say anything
    else, for the broker's permissions go by the routing key. `app_id`, `content_type` and the headers may be
    left out too. Raises Unreadable: `headers_too_deep`, `too_large`, `no_fact_id`, `forged_type`,
    `unknown_fact`, `unknown_version`, `wrong_content_type` or `bad_body`.
    """
    if isinstance(message.headers, CutHeaders):
        raise Unreadable(
            "headers_too_deep", f"headers nest {MAX_DEPTH} deep at most, and are of AMQP's types"
        )
    if max_bytes is not None and len(message.body) > max_bytes:
        raise Unreadable("too_large", f"a body has {max_bytes} bytes at most, not {len(message.body)}")
    fact_id = uuid_in(message.message_id)
    if fact_id is None:
        raise Unreadable("no_fact_id", f"message_id must be a UUID, not {message.message_id!r}")
    if message.type and routing_key and message.type != routing_key:
        raise Unreadable("forged_type", f"type {message.type!r} was sent as {routing_key!r}")
    kind = known_type(message.type or routing_key or "")
    if message.content_type and not is_json_type(message.content_type):
        raise Unreadable("wrong_content_type", f"a body is {JSON_TYPE}, not {message.content_type!r}")
    fact = _fact_in(message.body, kind)
    while isinstance(fact, SupersededFact):
        fact = fact.upcast()
    return Envelope(
        fact_id=fact_id,
        fact=fact,
        stated_by=message.app_id or "unknown",
        stated_at=stated_at(message) or datetime.now(UTC),
        causation_id=uuid_in(message.headers.get("causation_id")),
        traceparent=_traceparent(message.headers.get("traceparent")),
    )


def _fact_in(body: bytes, kind: type[Fact]) -> Fact:
    try:
        fact = kind.model_validate_json(body)
        if kind.from_outside:
            # Our own write no key twice, and the look costs as much again as reading.
            parsed(body)
    except ValidationError as error:
        detail = "; ".join(f"{_place(e['loc'])}: {e['msg']}" for e in error.errors()[:5])
        raise Unreadable("bad_body", f"{kind.wire_name}: {detail}") from error
    except json.JSONDecodeError as error:
        raise Unreadable("bad_body", f"{kind.wire_name}: body: {error.msg}") from error
    return fact


def known_type(wire_name: str) -> type[Fact]:
    """The class of a wire name. Raises Unreadable with `unknown_version` or `unknown_fact`."""
    kind = fact_type(wire_name)
    if kind is not None:
        return kind
    stem = wire_name.rpartition(".")[0]
    if any(fact_type(f"{stem}.v{version}") for version in range(1, 100)):
        raise Unreadable("unknown_version", f"no version {wire_name!r} of this fact is known here")
    raise Unreadable("unknown_fact", f"no fact is named {wire_name!r}")


def stated_at(message: Received) -> datetime | None:
    """When a message says it was published; None if an outside publisher left that out."""
    try:
        at = datetime.fromisoformat(_text(message.headers.get("stated_at")) or "")
    except ValueError:
        return message.timestamp
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def uuid_in(value: Any) -> UUID | None:
    """The UUID that a property or a header is, if it is one."""
    try:
        return UUID(_text(value) or "")
    except ValueError:
        return None


def _text(value: Any) -> str | None:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value if isinstance(value, str) else None


def _traceparent(value: Any) -> str | None:
    """A trace context, if it is one: what else is in that header must not travel on with other messages."""
    text = _text(value)
    return text if trace_id(text) else None


def _place(location: tuple[int | str, ...]) -> str:
    return ".".join(map(str, location)) or "body"
