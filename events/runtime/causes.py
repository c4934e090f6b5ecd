"""Why orders wait here, as far as only this process knows it: a message that failed, a lock that is held.

What is in the tables, calls to the outside and facts that the broker refuses, is read there when somebody
asks (see `http/causes_api.py`). In memory, bounded; an entry is gone once its order has moved on. No secret,
customer or amount: errors are in our words.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal
from uuid import UUID

import psycopg

CauseKind = Literal["call", "lock", "message", "publish", "broker", "database"]
MAX_ERROR_CHARACTERS, MAX_FAILED_AT = 200, 10


@dataclass(frozen=True, slots=True)
class Cause:
    """Why an order waits: what is tried, with whom, how often so far of how many times, and how that ended.

    `error` is a code, or the words of an exception that tell nothing of a row. `since` is when the first
    attempt was asked for or failed.
    """

    kind: CauseKind
    what: str
    since: datetime
    party: str | None = None
    attempt: int = 0
    of: int | None = None
    error: str | None = None
    next_attempt_at: datetime | None = None
    circuit: str | None = None
    session: str | None = None
    # When the last attempts failed.
    failed_at: tuple[datetime, ...] = ()


def error_words(error: Exception) -> str:
    """An exception for anybody to see: its type, and of a broken constraint which one that is.

    What else an exception says may repeat what is in a row or a message.
    """
    name = type(error).__name__
    if isinstance(error, psycopg.errors.IntegrityError) and error.diag.constraint_name:
        return f"{name}: {error.diag.constraint_name} of {error.diag.table_name}"[:MAX_ERROR_CHARACTERS]
    return name


class Causes:
    """By order, the newest reason why this process has not answered it yet; of so many orders at most."""

    def __init__(self, max_orders: int) -> None:
        self._max_orders = max_orders
        self._known: dict[UUID, Cause] = {}

    def note(self, order_id: UUID, cause: Cause) -> None:
        """Keep this one. What was tried before keeps the time since when it is tried."""
        before = self._known.pop(order_id, None)
        if before is not None and (before.kind, before.what) == (cause.kind, cause.what):
            failed_at = (*before.failed_at, *cause.failed_at)[-MAX_FAILED_AT:]
            cause = replace(cause, since=before.since, failed_at=failed_at)
        while len(self._known) >= self._max_orders:
            self._known.pop(next(iter(self._known)))
        self._known[order_id] = cause

    def locked_out(self, order_id: UUID, what: str) -> None:
        """An input of this order waits for a lock that another session holds."""
        self.note(order_id, Cause("lock", what, datetime.now(UTC)))

    def failed(
        self,
        order_id: UUID | None,
        what: str,
        *,
        attempt: int,
        of: int | None,
        error: str | None,
        comes_again_at: datetime | None,
    ) -> None:
        """A message of this order failed; without an `error`, because of a lock. No more: given up."""
        if order_id is None:
            return
        if comes_again_at is None:
            self.moved_on([order_id])
            return
        kind: CauseKind = "lock" if error is None else "message"
        now = datetime.now(UTC)
        cause = Cause(kind, what, now, attempt=attempt, of=of, error=error, failed_at=(now,))
        self.note(order_id, replace(cause, next_attempt_at=comes_again_at))

    def moved_on(self, order_ids: Iterable[UUID]) -> None:
        """These orders were answered. Costs nothing where nothing waits."""
        if self._known:
            for order_id in order_ids:
                self._known.pop(order_id, None)

    def of(self, order_ids: Sequence[UUID]) -> dict[UUID, Cause]:
        """What is known of these orders."""
        return {order_id: self._known[order_id] for order_id in order_ids if order_id in self._known}
