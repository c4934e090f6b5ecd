"""What becomes of a delivery that failed: it comes again later, or ends as a dead letter with the reason.

Later means through one of the queues `retry.<n>`, which hold a message for longer each time and then send it
to the exchange `redrive`, which leads back to this service's own queue. Nothing waits behind it meanwhile.
What cannot be read is a dead letter at once, for no delay makes it readable.
"""

import asyncio
import contextlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractMessage
from pamqp.encode import encode_table_value, field_table

from events.messaging.connection import BROKER_AWAY, connection_url, lost_means_away
from events.messaging.deliveries import Delivery
from events.messaging.topology import RETRY_DELAYS_SECONDS, retry_exchange
from events.runtime import metrics
from events.runtime.log import log
from events.runtime.settings import ServiceSettings
from events.runtime.tracing import Work, work
from events.service import DEAD_LETTER_EXCHANGE, EXCHANGE, REDRIVE_EXCHANGE
from events.trace import trace_id

MAX_ATTEMPTS = 1 + len(RETRY_DELAYS_SECONDS)
MAX_DETAIL_CHARACTERS = 2_000
SHORT_STRING_BYTES = 255
# Headers must fit into one frame, of 131,072 bytes by default, with what is added to them here and later.
MAX_HEADER_BYTES = 100_000
CUT = "headers_cut"

ATTEMPTS, FIRST_AT, ROUTING_KEY = "retry_attempts", "retry_first_at", "retry_routing_key"
DEAD_ROUTING_KEY = "dead_letter_routing_key"
# Those of a retry are in the dead letter under its own names. The others are the broker's: addresses for
# copies, which it would send once more, and its notes about deliveries. One such note, which anybody can
# forge, has it believe that the message goes round in a circle, and hold it in `retry.<n>` for ever.
_NOT_KEPT = (ATTEMPTS, FIRST_AT, ROUTING_KEY, "CC", "BCC", "x-death", "x-delivery-count", "x-acquired-count")
_NOT_KEPT_PREFIXES = ("x-first-death-", "x-last-death-")


@dataclass(frozen=True, slots=True)
class Failure:
    """A delivery that failed: a short `reason` code, a `detail` for a person, whether it will fail again."""

    message: Delivery
    reason: str
    detail: str
    for_good: bool


@dataclass(frozen=True, slots=True)
class History:
    """What is known of a failed message: how often it was tried, since when, and its first routing key."""

    attempts: int
    first_at: str
    routing_key: str


class Routed(Protocol):
    """What is read of a message that came by way of an exchange."""

    @property
    def exchange(self) -> str | None: ...
    @property
    def routing_key(self) -> str | None: ...
    @property
    def headers(self) -> Mapping[str, Any]: ...


def original_routing_key(message: Routed) -> str | None:
    """The key it was first published with, by which the broker judged whether its publisher may state it.

    None for what a person put on the queue. The headers count only where the broker lets nobody but the
    tracker write, and this service through its own delays: anybody can put headers on a fact.
    """
    if message.exchange == EXCHANGE:
        return message.routing_key
    if message.exchange == REDRIVE_EXCHANGE:
        key = message.headers.get(ROUTING_KEY) or message.headers.get(DEAD_ROUTING_KEY)
        return key if isinstance(key, str) else None
    return None


def attempts_before(message: Routed) -> int:
    """How often this service has failed at it before."""
    before = message.headers.get(ATTEMPTS) if message.exchange == REDRIVE_EXCHANGE else None
    return before if isinstance(before, int) else 0


def history_after(message: Routed, now: datetime) -> History:
    """Its history, the attempt that has just failed included."""
    headers = message.headers if message.exchange == REDRIVE_EXCHANGE else {}
    first_at = headers.get(FIRST_AT)
    return History(
        attempts=1 + attempts_before(message),
        first_at=first_at if isinstance(first_at, str) else now.isoformat(),
        routing_key=original_routing_key(message) or "",
    )


class DeadLetterOffice:
    """Sends what failed where it belongs, confirmed, before the original message is acknowledged."""

    def __init__(self, settings: ServiceSettings, service: str) -> None:
        self._settings = settings
        self._service = service

    async def take(self, failures: Sequence[Failure]) -> list[Delivery]:
        """Send them on; what cannot be sent now goes back on the queue, to come again at once.

        Answers the messages that were put back. The others may be acknowledged; killed before that, this
        service handles one twice at most, which the inbox makes harmless.
        """
        unsent = await self._send(failures)
        if unsent:
            await asyncio.sleep(self._settings.reconnect_seconds)
            with contextlib.suppress(*BROKER_AWAY):
                for message in unsent:
                    await message.whole().nack(requeue=True)
        return unsent

    async def _send(self, failures: Sequence[Failure]) -> list[Delivery]:
        """Publish all, each time on a short connection of its own, for they are rare.

        Answers what was not confirmed.
        """
        timeout_seconds = self._settings.publish_timeout_seconds
        url = connection_url(self._settings)
        try:
            with lost_means_away():
                async with (
                    asyncio.timeout(timeout_seconds),
                    await aio_pika.connect(url, timeout=timeout_seconds) as connection,
                    connection.channel(on_return_raises=True) as channel,
                ):
                    results = await asyncio.gather(
                        *(self._send_one(channel, failure) for failure in failures), return_exceptions=True
                    )
        except BROKER_AWAY as error:
            results = [error] * len(failures)
        reasons = [result for result in results if result is not None]
        for reason in reasons:
            if not isinstance(reason, BROKER_AWAY):
                raise reason
        if reasons:
            log.warning("failures_not_sent", count=len(reasons), why=str(reasons[0]) or repr(reasons[0]))
        return [failure.message for failure, result in zip(failures, results, strict=True) if result]

    async def _send_one(self, channel: AbstractChannel, failure: Failure) -> None:
        now = datetime.now(UTC)
        history = history_after(failure.message, now)
        if failure.for_good or history.attempts >= MAX_ATTEMPTS:
            exchange, headers = DEAD_LETTER_EXCHANGE, self._of_dead_letter(failure, history, now)
        else:
            exchange, headers = retry_exchange(history.attempts), _of_retry(history)
        with self._span_of(failure, exchange) as span, span.current(), lost_means_away():
            where = await channel.get_exchange(exchange, ensure=False)
            await where.publish(copy_of(failure.message.whole(), headers), self._service, mandatory=True)
        metrics.message_failed(failure.reason, dead=exchange == DEAD_LETTER_EXCHANGE)
        self._report(failure, history, exchange)

    def _of_dead_letter(self, failure: Failure, history: History, now: datetime) -> dict[str, Any]:
        return {
            "dead_letter_reason": failure.reason,
            # What no encoding knows must not keep the dead letter from being sent.
            "dead_letter_detail": failure.detail[:MAX_DETAIL_CHARACTERS].encode(errors="replace").decode(),
            "dead_letter_service": self._service,
            "dead_letter_attempts": history.attempts,
            "dead_letter_first_at": history.first_at,
            "dead_letter_at": now.isoformat(),
            DEAD_ROUTING_KEY: history.routing_key,
        }

    def _span_of(self, failure: Failure, exchange: str) -> Work:
        """In the trace of the message. A dead letter is an error, at the step where its order stands."""
        traceparent, fact_name = failure.message.headers.get("traceparent"), failure.message.type or "unknown"
        known = traceparent if isinstance(traceparent, str) else None
        if exchange != DEAD_LETTER_EXCHANGE:
            return work(f"retry {fact_name} later", known)
        span = work(
            f"dead letter {fact_name}",
            known,
            attributes=lambda: {
                "saga.order_id": failure.message.correlation_id or "",
                "saga.waiting_for": self._service,
                "saga.step": f"{self._service}:{fact_name.rpartition('.')[0]}",
                "saga.dead_letter_reason": failure.reason,
            },
        )
        span.fail(f"{failure.reason}: {failure.detail[:MAX_DETAIL_CHARACTERS]}")
        return span

    def _report(self, failure: Failure, history: History, exchange: str) -> None:
        traceparent = failure.message.headers.get("traceparent")
        said: dict[str, Any] = {
            "reason": failure.reason,
            "detail": failure.detail[:MAX_DETAIL_CHARACTERS],
            "attempts": history.attempts,
            "trace_id": trace_id(traceparent) if isinstance(traceparent, str) else None,
            "fact_id": failure.message.message_id,
            "order_id": failure.message.headers.get("order_id"),
            "wire_name": failure.message.type or history.routing_key,
        }
        if exchange == DEAD_LETTER_EXCHANGE:
            log.error("dead_letter", **said)
        else:
            log.warning("retry_later", through=exchange, **said)


def _of_retry(history: History) -> dict[str, Any]:
    return {ATTEMPTS: history.attempts, FIRST_AT: history.first_at, ROUTING_KEY: history.routing_key}


def copy_of(original: AbstractMessage, headers: dict[str, Any]) -> aio_pika.Message:
    """The original body and properties, untouched, with `headers` beside its own.

    Without its expiration, which would end its waiting early, and without the user that RabbitMQ verified,
    as whom nobody else may publish.
    """
    kept = {
        _short(name): _header_value(value)
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
        return repr(value)[:MAX_DETAIL_CHARACTERS]
    return value


def _short(value: Any) -> Any:
    """A property as AMQP takes it: what was not UTF-8 has been read as something longer than it was."""
    if not isinstance(value, str):
        return value
    return value.encode(errors="replace")[:SHORT_STRING_BYTES].decode(errors="ignore")
