"""What a message says of its own past: how often it failed here, since when, and as what it was published.

Pure. A message that failed comes again through one of the queues `retry.<n>`, which hold it for longer each
time and then send it to the exchange `redrive`, which leads back to the queue of this service alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from events.messaging.topology import RETRY_DELAYS_SECONDS
from events.service import EXCHANGE, REDRIVE_EXCHANGE

MAX_ATTEMPTS = 1 + len(RETRY_DELAYS_SECONDS)

ATTEMPTS, FIRST_AT, ROUTING_KEY = "retry_attempts", "retry_first_at", "retry_routing_key"
LOCK_WAITS = "retry_lock_waits"
DEAD_ROUTING_KEY = "dead_letter_routing_key"


@dataclass(frozen=True, slots=True)
class History:
    """What is known of a failed message: how often it was tried, since when, and its first routing key.

    `lock_waits`: how often in a row it came again only because of a lock, which counts as no attempt.
    """

    attempts: int
    first_at: str
    routing_key: str
    lock_waits: int = 0

    @property
    def turn(self) -> int:
        """Through which of the delays it comes again, counted from 1."""
        return min(self.lock_waits or self.attempts, len(RETRY_DELAYS_SECONDS))


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


def history_after(message: Routed, now: datetime, *, locked: bool = False) -> History:
    """Its history, the attempt that has just failed included; one that met a lock was none."""
    headers = message.headers if message.exchange == REDRIVE_EXCHANGE else {}
    first_at = headers.get(FIRST_AT)
    return History(
        attempts=attempts_before(message) + (not locked),
        first_at=first_at if isinstance(first_at, str) else now.isoformat(),
        routing_key=original_routing_key(message) or "",
        lock_waits=1 + _count(message, LOCK_WAITS) if locked else 0,
    )


def of_retry(history: History) -> dict[str, Any]:
    """The headers that carry a history to the next attempt."""
    known = {ATTEMPTS: history.attempts, FIRST_AT: history.first_at, ROUTING_KEY: history.routing_key}
    return {**known, LOCK_WAITS: history.lock_waits} if history.lock_waits else known


def _count(message: Routed, header: str) -> int:
    counted = message.headers.get(header) if message.exchange == REDRIVE_EXCHANGE else None
    return counted if isinstance(counted, int) else 0
