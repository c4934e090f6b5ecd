"""What a message says of its own past: how often it failed here, since when, and as what it was published.

Pure. A message that failed comes again through one of the queues `retry.<n>`, which hold it for longer each
time and then send it to the exchange `redrive`, which leads back to the queue of this service alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from events.messaging.subscriber import Arrived
from events.messaging.topology import RETRY_DELAYS_SECONDS
from events.service import EXCHANGE, REDRIVE_EXCHANGE

MAX_ATTEMPTS = 1 + len(RETRY_DELAYS_SECONDS)
# A message that is for another release goes so often through each delay: half of the replicas may be of it.
TIMES_THROUGH_EACH_DELAY = 5

ATTEMPTS, FIRST_AT, ROUTING_KEY = "retry_attempts", "retry_first_at", "retry_routing_key"
HANDED_BACK, LOCK_WAITS = "retry_handed_back", "retry_lock_waits"
# Why it failed last: a short code, and words for a person.
REASON, DETAIL = "retry_reason", "retry_detail"
DEAD_ROUTING_KEY = "dead_letter_routing_key"


@dataclass(frozen=True, slots=True)
class Failure:
    """A message that failed: a short `reason` code, a `detail` for a person, whether it will fail again.

    `for_others`: a replica of another release can handle it, so it comes again until one has it. `locked`: it
    only waits for a lock, was not at fault, and comes again for as often as it takes. `words`: the reason as
    anybody may read it.
    """

    message: Arrived
    reason: str
    detail: str
    for_good: bool
    for_others: bool = False
    locked: bool = False
    words: str = ""


@dataclass(frozen=True, slots=True)
class History:
    """What is known of a failed message: how often it was tried, since when, and its first routing key.

    `handed_back`: how often a replica left it to those of another release, `lock_waits`: how often in a row
    it came again only because of a lock. Neither counts as an attempt.
    """

    attempts: int
    first_at: str
    routing_key: str
    handed_back: int = 0
    lock_waits: int = 0


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
    return _count(message, ATTEMPTS)


def pause_of(history: History) -> int | None:
    """Through which delay it comes again, counted from 1; None after the last attempt.

    What is for another release, or waits for a lock, is not given up.
    """
    if history.lock_waits:
        return min(history.lock_waits, len(RETRY_DELAYS_SECONDS))
    if history.handed_back:
        return min(1 + (history.handed_back - 1) // TIMES_THROUGH_EACH_DELAY, len(RETRY_DELAYS_SECONDS))
    return history.attempts if history.attempts < MAX_ATTEMPTS else None


def comes_again_at(pause: int | None, now: datetime) -> datetime | None:
    """When it comes again that goes through this delay."""
    return None if pause is None else now + timedelta(seconds=RETRY_DELAYS_SECONDS[pause - 1])


def _count(message: Routed, header: str) -> int:
    before = message.headers.get(header) if message.exchange == REDRIVE_EXCHANGE else None
    return before if isinstance(before, int) else 0


def history_after(
    message: Routed, now: datetime, *, handed_back: bool = False, locked: bool = False
) -> History:
    """Its history, with the attempt that has just failed; to be `handed_back` or `locked` out was none."""
    headers = message.headers if message.exchange == REDRIVE_EXCHANGE else {}
    first_at = headers.get(FIRST_AT)
    return History(
        attempts=_count(message, ATTEMPTS) + (not (handed_back or locked)),
        first_at=first_at if isinstance(first_at, str) else now.isoformat(),
        routing_key=original_routing_key(message) or "",
        handed_back=_count(message, HANDED_BACK) + 1 if handed_back else 0,
        lock_waits=_count(message, LOCK_WAITS) + 1 if locked else 0,
    )


def why_it_failed(message: Routed) -> tuple[str, str]:
    """Why this service failed at it last: a code and words, as it wrote them itself."""
    headers = message.headers if message.exchange == REDRIVE_EXCHANGE else {}
    reason, detail = (
        value if isinstance(value := headers.get(name), str) else "" for name in (REASON, DETAIL)
    )
    return reason or "failed_before", detail


def of_retry(history: History, reason: str, detail: str) -> dict[str, Any]:
    """The headers that carry a history to the next attempt, with why the last one failed."""
    known = {ATTEMPTS: history.attempts, FIRST_AT: history.first_at, ROUTING_KEY: history.routing_key}
    further = {HANDED_BACK: history.handed_back, LOCK_WAITS: history.lock_waits}
    return (
        known | {REASON: reason, DETAIL: detail} | {name: count for name, count in further.items() if count}
    )


def of_dead_letter(history: History, service: str, reason: str, detail: str, now: datetime) -> dict[str, Any]:
    """The headers that say why a service gave a message up, and what it was."""
    return {
        "dead_letter_reason": reason,
        "dead_letter_detail": detail,
        "dead_letter_service": service,
        "dead_letter_attempts": history.attempts,
        "dead_letter_first_at": history.first_at,
        "dead_letter_at": now.isoformat(),
        DEAD_ROUTING_KEY: history.routing_key,
    }
