"""What becomes of a message that failed: it comes again later, or ends as a dead letter with the reason.

Later means through one of the queues `retry.<n>` (see `retries.py`). What cannot be read is a dead letter at
once, for no delay makes it readable. Nothing waits behind either: a message that failed stays unacknowledged
until the broker has confirmed its copy, while those behind it are handled and acknowledged.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import Any

from aio_pika.abc import AbstractChannel
from aio_pika.exceptions import DeliveryError

from events.messaging import retries
from events.messaging.connection import BROKER_AWAY, closed_means_away, connected, lost_means_away
from events.messaging.consumer import is_there
from events.messaging.copies import bare_copy_of, copy_of
from events.messaging.envelope import uuid_in
from events.messaging.retries import Failure, History
from events.messaging.subscriber import Arrived, whole
from events.messaging.topology import retry_exchange
from events.runtime.causes import Causes
from events.runtime.crash import crash_point
from events.runtime.settings import ServiceSettings
from events.service import DEAD_LETTER_EXCHANGE
from events.telemetry import metrics
from events.telemetry.log import log
from events.telemetry.redaction import named
from events.telemetry.tracing import Work, trace_id, work

MAX_DETAIL_CHARACTERS = 2_000
# Of so many bytes of bodies there are copies in memory at once.
MAX_BYTES_AT_ONCE = 8_000_000


@dataclass(slots=True, eq=False)
class _Held:
    """A failure whose copy is not confirmed yet, and when to look at it again, by `time.monotonic`."""

    failure: Failure
    refused: bool = False
    due: float = 0.0


class DeadLetterPublisher:
    """Sends copies of what failed where they belong, confirmed, before the originals are acknowledged.

    Killed in between, the service handles a message twice at most, which the inbox makes harmless.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        service: str,
        causes: Causes,
        *,
        acknowledge: Callable[[Sequence[Arrived]], Awaitable[None]],
        handle_again: Callable[[Arrived], None],
    ) -> None:
        self._settings = settings
        self._service = service
        self._causes = causes
        self._acknowledge = acknowledge
        self._handle_again = handle_again
        self._refusals = 0
        self._held: list[_Held] = []
        self._wake = asyncio.Event()

    @property
    def idle(self) -> bool:
        return not self._held

    def take(self, failures: Sequence[Failure]) -> None:
        """Send these on. The broker's prefetch bounds how many wait."""
        self._held += [_Held(failure) for failure in failures]
        self._wake.set()

    async def run(self) -> None:
        """Send for ever: over a short connection each time, for failures are rare."""
        while True:
            self._wake.clear()
            # What came on a channel that is closed is delivered again: it is for that delivery to fail.
            self._held = [held for held in self._held if is_there(held.failure.message)]
            now = monotonic()
            if due := [held for held in self._held if held.due <= now]:
                await self._look_at(due)
                continue
            next_due = min((held.due for held in self._held), default=None)
            await self._sleep(None if next_due is None else next_due - now)

    async def _sleep(self, seconds: float | None) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _look_at(self, due: Sequence[_Held]) -> None:
        """Send; but what the broker would not keep for later has waited here, and is handled once more."""
        again = [held for held in due if held.refused and not held.failure.for_good]
        for held in again:
            self._held.remove(held)
        for held in again:
            self._handle_again(held.failure.message)
        if send := [held for held in due if held in self._held]:
            await self._send(_some_of(send))

    async def _send(self, due: Sequence[_Held]) -> None:
        """Publish all, and acknowledge those that are confirmed; the others are tried again after a pause."""
        timeout_seconds = self._settings.publish_timeout_seconds
        results: list[BaseException | None]
        try:
            with lost_means_away(), closed_means_away():
                async with (
                    connected(self._settings, f"{self._service} dead letters", timeout_seconds) as connection,
                    asyncio.timeout(timeout_seconds),
                    connection.channel(on_return_raises=True) as channel,
                ):
                    results = await asyncio.gather(
                        *(self._send_one(channel, held.failure) for held in due), return_exceptions=True
                    )
        except BROKER_AWAY as error:
            results = [error] * len(due)
        sent = []
        for held, result in zip(due, results, strict=True):
            if result is None:
                self._held.remove(held)
                sent.append(held.failure.message)
                self._refusals = 0
            else:
                held.due = monotonic() + self._pause_after(held, result)
        if reasons := [result for result in results if result is not None]:
            unforeseen = next(
                (why for why in reasons if not isinstance(why, (*BROKER_AWAY, DeliveryError))), None
            )
            why = named(unforeseen or reasons[0])
            log.warning("failures_not_sent", count=len(reasons), why=why, exc_info=unforeseen)
        if sent:
            crash_point("before_ack")
            await self._acknowledge(sent)

    def _pause_after(self, held: _Held, why: BaseException) -> float:
        """Short while the broker is away; longer each time when it is there, and refuses."""
        held.refused = not isinstance(why, BROKER_AWAY)
        if not held.refused:
            return self._settings.reconnect_seconds
        pause = self._settings.reconnect_seconds * 2.0 ** min(self._refusals, 30)
        self._refusals += 1
        return min(pause, self._settings.refused_pause_cap_seconds)

    async def _send_one(self, channel: AbstractChannel, failure: Failure) -> None:
        now = datetime.now(UTC)
        history = retries.history_after(
            failure.message, now, handed_back=failure.for_others, locked=failure.locked
        )
        delay = None if failure.for_good else retries.pause_of(history)
        if delay is None:
            exchange = DEAD_LETTER_EXCHANGE
            headers = retries.of_dead_letter(history, self._service, failure.reason, _detail(failure), now)
        else:
            exchange, headers = (
                retry_exchange(delay),
                retries.of_retry(history, failure.reason, _detail(failure)),
            )
        where, original = await channel.get_exchange(exchange, ensure=False), whole(failure.message)
        with self._span_of(failure, exchange) as span, span.current(), lost_means_away():
            try:
                with closed_means_away():
                    await where.publish(copy_of(original, headers), self._service, mandatory=True)
            except (*BROKER_AWAY, DeliveryError):
                raise
            except Exception as error:  # noqa: BLE001 - whatever nobody thought of, it must not stop the others
                log.error("copy_without_properties", exc_info=error, fact_id=failure.message.message_id)
                await where.publish(bare_copy_of(original, headers), self._service, mandatory=True)
        metrics.message_failed(failure.reason, dead=exchange == DEAD_LETTER_EXCHANGE)
        self._causes.failed(
            uuid_in(failure.message.headers.get("order_id") or failure.message.correlation_id),
            failure.message.type or history.routing_key,
            attempt=history.attempts,
            of=None if failure.locked or failure.for_others else retries.MAX_ATTEMPTS,
            error=None if failure.locked else failure.words or failure.reason,
            comes_again_at=retries.comes_again_at(delay, now),
        )
        self._report(failure, history, exchange)

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
        fields: dict[str, Any] = {
            "reason": failure.reason,
            "detail": failure.detail[:MAX_DETAIL_CHARACTERS],
            "attempts": history.attempts,
            **({"handed_back": history.handed_back} if history.handed_back else {}),
            "trace_id": trace_id(traceparent) if isinstance(traceparent, str) else None,
            "fact_id": failure.message.message_id,
            "order_id": failure.message.headers.get("order_id"),
            "wire_name": failure.message.type or history.routing_key,
        }
        if exchange == DEAD_LETTER_EXCHANGE:
            log.error("dead_letter", **fields)
        else:
            log.warning("retry_later", through=exchange, **fields)


def _detail(failure: Failure) -> str:
    """As much as is kept of it. What no encoding knows must not keep the message from being sent."""
    return failure.detail[:MAX_DETAIL_CHARACTERS].encode(errors="replace").decode()


def _some_of(due: Sequence[_Held]) -> list[_Held]:
    """The first of these, at least one, whose bodies together are not too large."""
    some: list[_Held] = []
    size_bytes = 0
    for held in due:
        size_bytes += len(held.failure.message.body)
        if some and size_bytes > MAX_BYTES_AT_ONCE:
            break
        some.append(held)
    return some
