"""Carries out what `decide` asked of the outside world: outside the transaction, until the outcome is known.

Every attempt of a call has the same idempotency key. An attempt that may have reached the provider is
followed by a look-up before the next one, so that work that was done is found and not done again.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Protocol, TypeVar
from uuid import UUID

from opentelemetry.trace import SpanKind
from pydantic import ValidationError
from sqlalchemy import Boolean, bindparam, func, not_, or_, select, update

from events.decision import Call, GaveUp, Outcome, RetryPolicy
from events.outbound.left_calls import LeftCalls
from events.runtime.causes import error_words
from events.runtime.crash import crash_point
from events.runtime.settings import ServiceSettings
from events.service import Service
from events.storage.database import Database, Locked
from events.storage.instance import Instance
from events.storage.repository import StateNotUnderstood
from events.storage.sql import array_of, compiled
from events.storage.tables import calls as calls_table
from events.telemetry import metrics
from events.telemetry.log import log, story
from events.telemetry.redaction import named
from events.telemetry.tracing import Attributes, Work, trace_id, work

# Of a call that fails again and again, the last failures are known.
MAX_FAILED_AT = 10

CallT_contra = TypeVar("CallT_contra", bound=Call, contravariant=True)


class CallFailed(Exception):
    """An attempt failed in a way that another may not. `maybe_done`: it may have been done all the same.

    `wait_seconds`: before then another one would fail in the same way.
    """

    def __init__(self, reason: str, *, maybe_done: bool, wait_seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.maybe_done = maybe_done
        self.wait_seconds = wait_seconds


class Gateway(Protocol[CallT_contra]):
    """A service's way to the outside world. Both methods raise CallFailed when another attempt may help."""

    async def open(self) -> None:
        """Get ready: connection pools and the like."""

    async def close(self) -> None:
        """Let go of them."""

    async def perform(self, call: CallT_contra) -> Outcome:
        """Do it, under the call's idempotency key. A definite refusal is an outcome, not an exception."""

    async def look_up(self, call: CallT_contra) -> Outcome | None:
        """What became of an earlier attempt; None when the other side never saw one, or cannot say."""


@dataclass(frozen=True, slots=True)
class RetrySchedule:
    """How many attempts a call has, and how far apart they are at most."""

    attempts: int
    backoff_seconds: float
    cap_seconds: float

    def pause_after(self, attempts: int) -> float:
        """Seconds until the next attempt: exponential backoff up to the cap, half of it at random."""
        ceiling = min(self.cap_seconds, self.backoff_seconds * 2 ** min(attempts, 30))
        return random.uniform(ceiling / 2, ceiling)  # noqa: S311


def schedules_of(settings: ServiceSettings) -> dict[RetryPolicy, RetrySchedule]:
    """What each patience means."""
    first = settings.call_backoff_seconds
    return {
        "step": RetrySchedule(settings.call_attempts, first, settings.call_backoff_cap_seconds),
        "undo": RetrySchedule(settings.undo_attempts, first, settings.undo_backoff_cap_seconds),
        "message": RetrySchedule(settings.message_attempts, first, settings.message_backoff_cap_seconds),
        "pending": RetrySchedule(settings.pending_attempts, first, settings.pending_backoff_cap_seconds),
    }


@dataclass(frozen=True, slots=True)
class CallRow:
    """A durable call and how far its attempts have come."""

    call_id: UUID
    name: str
    order_id: UUID
    request: dict[str, object]
    traceparent: str | None
    attempts: int = 0
    maybe_done: bool = False


_DUE = compiled(
    select(*(calls_table.c[name] for name in CallRow.__slots__))
    .where(
        calls_table.c.owner == bindparam("me"),
        calls_table.c.due_at <= bindparam("now"),
        not_(calls_table.c.call_id == array_of("known", calls_table.c.call_id).any_()),
    )
    .order_by(calls_table.c.due_at)
    .limit(bindparam("row_limit"))
)
_NEXT_DUE = compiled(
    select(func.min(calls_table.c.due_at).label("due_at")).where(
        calls_table.c.owner == bindparam("me"), calls_table.c.due_at > bindparam("now")
    )
)
_POSTPONE = compiled(
    update(calls_table)
    .values(
        attempts=bindparam("attempts"),
        # Once so, always so: a call may be attempted twice, when a look into the table found it before it was
        # handed over. Then the second attempt knows nothing of what the first one sent.
        maybe_done=or_(calls_table.c.maybe_done, bindparam("maybe_done", type_=Boolean)),
        last_error=bindparam("last_error"),
        due_at=bindparam("due_at"),
    )
    .where(calls_table.c.call_id == bindparam("id"))
)


class CallDispatcher:
    """Works off the calls of this instance, so many at a time."""

    def __init__(
        self,
        settings: ServiceSettings,
        database: Database,
        instance: Instance,
        service: Service,
        gateway: Gateway[Call],
        learn: Callable[[CallRow, Outcome], Awaitable[None]],
    ) -> None:
        self._settings = settings
        self._database = database
        self._instance = instance
        self._kinds = service.calls
        self._schedules = schedules_of(settings)
        self._gateway = gateway
        self._learn = learn
        self._waiting: dict[UUID, CallRow] = {}
        self._running: dict[UUID, asyncio.Task[None]] = {}
        self._left = LeftCalls(settings, database, instance, list(service.calls))
        self._aside: dict[UUID, int] = {}
        self._failed_at: dict[UUID, tuple[datetime, ...]] = {}
        self._slots = asyncio.Semaphore(settings.call_concurrency)
        self._look_in_table_at: datetime | None = None
        self._wake = asyncio.Event()

    @property
    def idle(self) -> bool:
        """Whether no attempt is under way or waiting in memory."""
        return not self._waiting and not self._running

    def failed_at(self, call_id: UUID) -> tuple[datetime, ...]:
        """When the last attempts of a call that goes on failed, as far as this instance made them."""
        return self._failed_at.get(call_id, ())

    def hand_over(self, rows: Sequence[CallRow]) -> None:
        """Take committed calls; past the memory bound they stay in the table until there is room."""
        if len(self._waiting) + len(rows) > self._settings.call_memory:
            self._look_at(datetime.now(UTC))
        else:
            self._waiting.update((row.call_id, row) for row in rows)
        self._wake.set()

    def look_in_table(self) -> None:
        """Look for own rows that were committed without being handed over."""
        self._look_at(datetime.now(UTC))
        self._wake.set()

    async def run(self) -> None:
        """Attempt what is due, for ever."""
        try:
            while True:
                if self._look_in_table_at is not None and self._look_in_table_at <= datetime.now(UTC):
                    await self._refill()
                while self._waiting:
                    await self._slots.acquire()
                    row = self._waiting.pop(next(iter(self._waiting)))
                    self._start(row)
                await self._sleep()
        finally:
            for task in list(self._running.values()):
                task.cancel()

    async def sweep(self) -> None:
        """Adopt what dead instances left, at the start and then periodically."""
        while True:
            if await self._left.adopt():
                self.look_in_table()
            await asyncio.sleep(self._settings.sweep_seconds)

    async def _sleep(self) -> None:
        """Until woken, or until a postponed call is due."""
        timeout_seconds = None
        if self._look_in_table_at is not None:
            timeout_seconds = max(0.0, (self._look_in_table_at - datetime.now(UTC)).total_seconds())
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    async def _refill(self) -> None:
        """Fetch due calls from the table. A postponed one still ahead sets the time of the next look."""
        limit = self._settings.call_memory
        self._look_in_table_at = None
        now = datetime.now(UTC)
        known = [*self._waiting, *self._running, *self._aside]
        found = await self._database.rows_when_back(
            _DUE, me=self._instance.number, now=now, known=known, row_limit=limit
        )
        self._waiting.update((row["call_id"], CallRow(**row)) for row in found)
        ahead = await self._database.rows_when_back(_NEXT_DUE, me=self._instance.number, now=now)
        if len(found) == limit:
            self._look_at(now)
        elif ahead[0]["due_at"] is not None:
            self._look_at(ahead[0]["due_at"])

    def _look_at(self, instant: datetime) -> None:
        if self._look_in_table_at is None or instant < self._look_in_table_at:
            self._look_in_table_at = instant

    def _start(self, row: CallRow) -> None:
        task = asyncio.create_task(self._try(row), name=f"{row.name}:{row.order_id}")
        self._running[row.call_id] = task
        task.add_done_callback(lambda _: self._finish(row.call_id))

    def _finish(self, call_id: UUID) -> None:
        self._running.pop(call_id, None)
        self._slots.release()
        self._wake.set()

    async def _try(self, row: CallRow) -> None:
        """One attempt. Whatever breaks it, such as a table that refuses its row, holds up no other call."""
        try:
            await self._attempt(row)
        except Exception as error:  # noqa: BLE001 - it is logged, and tried again after growing pauses
            times = self._aside.get(row.call_id, 0) + 1
            log.error(
                "call_set_aside", call=row.name, order_id=str(row.order_id), times=times, exc_info=error
            )
            pause_seconds = self._schedules["message"].pause_after(times)
            if len(self._aside) < self._settings.call_memory:
                self._aside[row.call_id] = times
                loop = asyncio.get_running_loop()
                loop.call_later(pause_seconds, self._take_up, replace(row, maybe_done=True))
            else:
                self._look_at(datetime.now(UTC) + timedelta(seconds=pause_seconds))
        else:
            self._aside.pop(row.call_id, None)

    def _take_up(self, row: CallRow) -> None:
        self._waiting[row.call_id] = row
        self._wake.set()

    async def _attempt(self, row: CallRow) -> None:
        try:
            call = self._kinds[row.name].model_validate(row.request)
        except (KeyError, ValidationError) as error:
            # Another release of this service asked for it: it is for a replica that understands it.
            log.warning("call_not_understood", call=row.name, order_id=str(row.order_id), why=named(error))
            await self._left.leave(row.call_id, maybe_done=row.maybe_done)
            return
        began = time.perf_counter()
        with self._span_of(row) as span, span.current():
            try:
                outcome = await self._outcome(call, row)
            except CallFailed as failure:
                span.fail(failure.reason)
                metrics.call_attempted(row.name, metrics.FAILED, began)
                await self._postpone(row, failure, self._schedules[call.retry_policy])
                return
            span.note({"call.outcome": type(outcome).__name__})
            metrics.call_attempted(row.name, type(outcome).__name__, began)
        crash_point("after_call")
        try:
            descends = row.traceparent == span.traceparent
            await self._learn(row if descends else replace(row, traceparent=span.traceparent), outcome)
        except StateNotUnderstood:
            # Another release has taken the order further; a replica of that one learns the outcome.
            await self._left.leave(row.call_id, maybe_done=True)
        except Locked:
            # Not the call's fault: it is looked up once more, and that counts as no attempt.
            not_yet = CallFailed("outcome_not_accepted: Locked", maybe_done=True)
            await self._postpone(replace(row, attempts=row.attempts - 1), not_yet, self._schedules["message"])
        except Exception as error:  # noqa: BLE001 - whatever decide or the repository raised: try again later
            not_accepted = CallFailed(f"outcome_not_accepted: {error_words(error)}", maybe_done=True)
            await self._postpone(row, not_accepted, self._schedules[call.retry_policy])

    def _span_of(self, row: CallRow) -> Work:
        def attributes() -> Attributes:
            return {
                "saga.order_id": str(row.order_id),
                "saga.attempt": row.attempts + 1,
                "call.name": row.name,
                "call.id": str(row.call_id),
            }

        return work(f"call {row.name}", row.traceparent, SpanKind.CLIENT, attributes)

    async def _outcome(self, call: Call, row: CallRow) -> Outcome:
        """One attempt; after the last allowed one, a final look-up and then giving up.

        A request that went out may still be carried out after a look-up found nothing: `maybe_done` stays.
        """
        maybe_done = row.maybe_done
        allowed = self._schedules[call.retry_policy].attempts
        try:
            async with asyncio.timeout(self._settings.call_timeout_seconds):
                if maybe_done:
                    known = await self._gateway.look_up(call)
                    if known is not None:
                        return known
                if row.attempts >= allowed:
                    return GaveUp(call, "attempts_exhausted", maybe_done)
                return await self._gateway.perform(call)
        except TimeoutError:
            failure = CallFailed("timeout", maybe_done=True)
        except CallFailed as error:
            failure = CallFailed(
                error.reason, maybe_done=maybe_done or error.maybe_done, wait_seconds=error.wait_seconds
            )
        except Exception as error:  # noqa: BLE001 - a gateway's bug must not strand the call
            log.error("gateway_broke", call=row.name, order_id=str(row.order_id), exc_info=error)
            failure = CallFailed(f"gateway_raised_{type(error).__name__}", maybe_done=True)
        if row.attempts < allowed:
            raise failure
        return GaveUp(call, failure.reason, failure.maybe_done)

    async def _postpone(self, row: CallRow, failure: CallFailed, schedule: RetrySchedule) -> None:
        """Write the failed attempt down, and when the next one is due."""
        attempts = row.attempts + 1
        before = self._failed_at.pop(row.call_id, ())
        while len(self._failed_at) >= self._settings.cause_memory:
            self._failed_at.pop(next(iter(self._failed_at)))
        self._failed_at[row.call_id] = (*before, datetime.now(UTC))[-MAX_FAILED_AT:]
        # Those that wait for the same instant come one after the other.
        at_least = failure.wait_seconds and failure.wait_seconds + schedule.pause_after(0)
        due_at = datetime.now(UTC) + timedelta(seconds=max(schedule.pause_after(attempts), at_least))
        if story.goes_on():
            log.warning(
                "call_failed",
                call=row.name,
                order_id=str(row.order_id),
                trace_id=trace_id(row.traceparent),
                attempt=attempts,
                why=failure.reason,
            )
        after = replace(row, attempts=attempts, maybe_done=failure.maybe_done)
        written = {
            "id": row.call_id,
            "attempts": after.attempts,
            "maybe_done": after.maybe_done,
            "last_error": failure.reason,
            "due_at": due_at,
        }

        async def write_down() -> None:
            async with self._database.session() as connection:
                await connection.execute(_POSTPONE, written)

        await self._database.until_done(write_down)
        self._look_at(due_at)
