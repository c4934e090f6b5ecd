"""Keeps the deadlines: looks for sagas that are due, by the view's own clock, and acts on them.

The view's clock is the last reading of the database's clock of which it is certain that all that was
published until then is in the view. So it stands still while the broker is away or the view is behind, and
nobody counts as late for a fact that was published and has not been read.

Of several trackers one acts at a time: the one that holds the leader's lease.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, assert_never
from uuid import UUID, uuid5

import psycopg
from sqlalchemy import bindparam, exists, func, select, update

from events.facts.base import Fact
from events.facts.saga import ApprovalExpired, SagaOverdue, SagaRedriven, SagaTimedOut
from events.service import name_of
from events.storage.database import AWAY, CONTENTION, Connection, Database, spares_the_row
from events.storage.sql import compiled
from events.telemetry.log import Outage, log
from events.telemetry.tracing import trace_id, work
from saga_tracker.availability import Availability
from saga_tracker.causes import repository as causes
from saga_tracker.causes.cause import late as why_late
from saga_tracker.deadlines import OWNER, Act, Due, due
from saga_tracker.projection import Saga
from saga_tracker.reading import gaps, repository
from saga_tracker.reading.reader import Reader
from saga_tracker.reading.repository import AnotherWrites
from saga_tracker.scheduler import redrive
from saga_tracker.scheduler import redrive as outbox
from saga_tracker.scheduler.leader import LeaderLease
from saga_tracker.scheduler.redrive import Key, Outgoing, Publisher
from saga_tracker.settings import TrackerSettings
from saga_tracker.steps import ADDED
from saga_tracker.tables import look_ups, sagas

_clock = func.clock_timestamp()
_DUE = compiled(
    select(sagas.c.order_id)
    .where(
        sagas.c.due_at <= bindparam("clock"),
        # Nobody is late for what the tracker missed and is asking for.
        ~exists().where(look_ups.c.order_id == sagas.c.order_id, look_ups.c.waited_for_until > _clock),
    )
    .order_by(sagas.c.due_at)
    .limit(bindparam("row_limit"))
)
_LOOK_LATER = compiled(
    update(sagas).where(sagas.c.order_id == bindparam("order")).values(due_at=bindparam("later"))
)


@dataclass(frozen=True, slots=True)
class _Moment:
    """The view's clock, since when everybody could be reached, and the database's clock."""

    clock: datetime
    received_since: datetime
    now: datetime


@dataclass(frozen=True, slots=True)
class _Late:
    """A deadline that has passed. `reason`: who is late and why, of an order that times out."""

    order_id: UUID
    due: Due
    reason: str | None = None

    @property
    def because_of(self) -> Key:
        return self.order_id, self.due.wait.because_of_id

    @property
    def perhaps_done(self) -> bool:
        """Whether it may have been done without being published."""
        wait = self.due.wait
        return self.due.act is Act.REDRIVE and (wait.because_of, wait.service) in ADDED

    @property
    def of_owner(self) -> bool:
        """Whether it takes the order's beginning to tell whoever owns its fate."""
        return self.due.act is Act.TIME_OUT or self.due.wait.service == OWNER


@dataclass(frozen=True, slots=True)
class _Aside:
    """A saga that could not be acted on: how often in a row, and until when it is left alone."""

    times: int
    until: datetime


# A deadline that was acted on, and the fact since which it ran.
_Acted = tuple[_Late, dict[str, Any]]


class DeadlineScheduler:
    """The one task that states that somebody is late."""

    def __init__(
        self,
        settings: TrackerSettings,
        database: Database,
        reader: Reader,
        publisher: Publisher,
        availability: Availability,
    ) -> None:
        self._settings = settings
        self._lease = LeaderLease(settings.lease_seconds)
        self._rules = settings.deadline_rules
        self._database = database
        self._reader = reader
        self._publisher = publisher
        self._availability = availability
        self._failure = Outage("the deadline scheduler's work")
        self._aside: dict[UUID, _Aside] = {}
        self._clock: datetime | None = None
        self._received_since: datetime | None = None

    @property
    def name(self) -> str:
        """This tracker's name in the lease."""
        return self._lease.name

    async def run(self) -> None:
        """Keep deadlines for ever; wait for a database that is away, or is not migrated yet."""
        while True:
            try:
                await self._tick()
                self._failure.ended()
            except (AnotherWrites, *CONTENTION):
                log.debug("deadlines_wait_for_another_writer")
            except AWAY as error:
                await self._database.wait_until_back(error)
            except psycopg.Error as error:
                if not self._failure.ongoing:
                    log.error("deadline_scheduler_failed", exc_info=error)
                self._failure.began(error)
            await asyncio.sleep(self._settings.deadline_tick_seconds)

    async def release(self) -> None:
        """Let another tracker take over at once."""
        await self._lease.release(self._database, self._settings.database_timeout_seconds)

    async def _tick(self) -> None:
        if self._publisher.blocked:
            # Nobody can say anything: the view's clock stands still, which begins all deadlines anew.
            return
        rows = await self._database.rows(repository.CLOCK)
        read_up_to = await self._reader.catch_up()
        if read_up_to is None:
            return
        clock: datetime = rows[0]["now"]
        interruption = timedelta(seconds=self._settings.interrupted_after_seconds)
        if self._clock is None or self._received_since is None or clock - self._clock > interruption:
            self._received_since = clock
            self._availability.begin_anew(clock)
        self._clock = clock
        # Not for so long that this itself becomes an interruption.
        enough = time.monotonic() + interruption.total_seconds() / 2
        while await self._act(clock, self._received_since, read_up_to) and time.monotonic() < enough:
            pass

    async def _act(self, clock: datetime, received_since: datetime, read_up_to: int) -> bool:
        """Act on some sagas that are due; says whether there may be more."""
        async with self._database.transaction() as connection:
            now = await self._lease.hold(connection)
            if now is None:
                return False
            if not await self._due(connection, clock):
                return False
            position = await repository.lock(connection)
            if position.stream_offset < read_up_to:
                return False
            order_ids = await self._due(connection, clock)
            acted = await self._act_on(connection, order_ids, _Moment(clock, received_since, now))
        if acted:
            self._publisher.look_in_table()
            for one, trigger in acted:
                _report(one, trigger)
        return len(order_ids) == self._settings.deadline_batch_size

    async def _act_on(
        self, connection: Connection, order_ids: Sequence[UUID], at: "_Moment"
    ) -> "list[_Acted]":
        """Act on these. One that makes trouble is set aside alone: it must not end all deadlines."""
        try:
            async with connection.transaction():
                late = await self._look_at(connection, order_ids, at.clock, at.received_since)
                facts = await redrive.facts_at(connection, [one.because_of for one in late])
                acted = [(one, facts[one.because_of]) for one in late]
                begun = await redrive.beginnings(connection, [one.order_id for one in late if one.of_owner])
                reasons = await self._reasons(connection, late)
                messages = [
                    message
                    for one, trigger in acted
                    for message in _traced(
                        replace(one, reason=reasons.get(one.order_id)),
                        trigger,
                        begun.get(one.order_id),
                        at.now,
                    )
                ]
                await outbox.enter(connection, messages)
                await gaps.ask(connection, [one.order_id for one in late if one.perhaps_done])
        except Exception as error:
            if spares_the_row(error) or not order_ids:
                raise
            if len(order_ids) > 1:
                middle = len(order_ids) // 2
                first = await self._act_on(connection, order_ids[:middle], at)
                return first + await self._act_on(connection, order_ids[middle:], at)
            await self._set_aside(connection, order_ids[0], at.clock, error)
            return []
        for order_id in self._aside.keys() & set(order_ids):
            del self._aside[order_id]
        return acted

    async def _reasons(self, connection: Connection, late: Sequence[_Late]) -> dict[UUID, str]:
        """Why orders time out: what their services reported last, or what was published of it before."""
        over = {one.order_id: one for one in late if one.due.act is Act.TIME_OUT}
        kept = await causes.of_orders(connection, list(over))
        reasons: dict[UUID, str] = {}
        for order_id, one in sorted(over.items()):
            wait = one.due.wait
            known = kept[order_id].get(wait.service)
            cause = known.cause if known and known.because_of_id == wait.because_of_id else None
            reasons[order_id] = await causes.reason_given(
                connection, order_id, wait.service, wait.because_of_id, why_late(wait.service, cause)
            )
        return reasons

    async def _set_aside(
        self, connection: Connection, order_id: UUID, clock: datetime, error: Exception
    ) -> None:
        """Look at it again later, after growing pauses; what is read of it meanwhile ends the pause."""
        cap_seconds = self._settings.deadline_aside_cap_seconds
        forgotten = clock - timedelta(seconds=cap_seconds)
        self._aside = {key: seen for key, seen in self._aside.items() if seen.until > forgotten}
        times = self._aside[order_id].times + 1 if order_id in self._aside else 1
        if times == 1 and len(self._aside) >= self._settings.deadline_batch_size:
            # That is no single saga's trouble any more.
            raise error
        pause_seconds = min(self._settings.deadline_revisit_seconds * 2.0 ** (times - 1), cap_seconds)
        until = clock + timedelta(seconds=pause_seconds)
        self._aside[order_id] = _Aside(times, until)
        log.error("deadline_not_kept", order_id=str(order_id), times=times, exc_info=error)
        await connection.execute(_LOOK_LATER, {"order": order_id, "later": until})

    async def _due(self, connection: Connection, clock: datetime) -> list[UUID]:
        limit = self._settings.deadline_batch_size
        found = await connection.execute(_DUE, {"clock": clock, "row_limit": limit})
        return [row["order_id"] for row in await found.fetchall()]

    async def _look_at(
        self, connection: Connection, order_ids: Sequence[UUID], clock: datetime, received_since: datetime
    ) -> list[_Late]:
        """Whose deadlines have passed; and see to it that each saga is looked at again in time.

        One that is acted on is due anew as soon as the act is read back.
        """
        revisit_at = clock + timedelta(seconds=self._settings.deadline_revisit_seconds)
        rows: list[dict[str, Any]] = []
        late: list[_Late] = []
        for order_id, saga in (await repository.sagas_of(connection, order_ids)).items():
            self._note_waits(saga, clock)
            dues, planned = due(saga, self._rules, received_since, self._availability), due(saga, self._rules)
            passed = [_Late(order_id, one) for one in dues if one.at <= clock]
            late += passed
            next_at = min((one.at for one in dues), default=None)
            if passed:
                next_at = revisit_at
            elif next_at is not None and dues != planned:
                # Time stands still for it: it may go on at any moment.
                next_at = min(next_at, revisit_at)
            rows.append(repository.row_of(order_id, saga, planned) | {"due_at": next_at})
        await repository.show(connection, rows)
        return late

    def _note_waits(self, saga: Saga, clock: datetime) -> None:
        for (service, step), (since, seconds) in self._rules.times_of(saga).items():
            self._availability.waited(service, step, since, seconds, clock)


def _traced(
    late: _Late, trigger: Mapping[str, Any], beginning: Mapping[str, Any] | None, now: datetime
) -> list[Outgoing]:
    """What to publish, from a span that is an error of the saga's trace, at the step that is late."""
    wait, name = late.due.wait, name_of(trigger["wire_name"])
    attributes = {
        "saga.order_id": str(late.order_id),
        "saga.waiting_for": wait.service,
        "saga.step": f"{wait.service}:{name}",
    }
    with work(f"saga {late.due.act.value}", trigger["traceparent"], attributes=lambda: attributes) as span:
        span.fail(f"{wait.service} has not answered {name}")
        return _messages(late, {**trigger, "traceparent": span.traceparent}, beginning, now)


def _report(late: _Late, trigger: Mapping[str, Any]) -> None:
    log.warning(
        "deadline_passed",
        act=late.due.act.value,
        order_id=str(late.order_id),
        waiting_for=late.due.wait.service,
        fact_id=str(trigger["fact_id"]),
        trace_id=trace_id(trigger["traceparent"]),
    )


def _messages(
    late: _Late, trigger: Mapping[str, Any], beginning: Mapping[str, Any] | None, now: datetime
) -> list[Outgoing]:
    """What to publish. Every id follows from the cause: whoever does this again publishes the same."""
    wait = late.due.wait
    match late.due.act:
        case Act.REDRIVE:
            fact: Fact = SagaRedriven(
                order_id=late.order_id, service=wait.service, redriven_id=wait.because_of_id
            )
            return [
                *redrive.all_again(trigger, wait.service, beginning),
                _publishing(fact, trigger, uuid5(wait.because_of_id, f"redriven:{wait.service}"), now),
            ]
        case Act.TIME_OUT:
            customer = redrive.customer_of(beginning)
            fact = SagaTimedOut(
                order_id=late.order_id, waiting_for=wait.facts[0], customer=customer, reason=late.reason
            )
            # Once for an order, whatever else is late of it.
            return [_publishing(fact, trigger, uuid5(late.order_id, "timed_out"), now)]
        case Act.CALL_OVERDUE:
            fact = SagaOverdue(
                order_id=late.order_id,
                service=wait.service,
                because_of_id=wait.because_of_id,
                waiting_for=wait.facts[0],
            )
            return [_publishing(fact, trigger, uuid5(wait.because_of_id, f"overdue:{wait.service}"), now)]
        case Act.EXPIRE_APPROVAL:
            waited_seconds = max(0, int((now - wait.since).total_seconds()))
            fact = ApprovalExpired(order_id=late.order_id, waited_seconds=waited_seconds)
            return [_publishing(fact, trigger, uuid5(wait.because_of_id, "approval_expired"), now)]
        case _:
            assert_never(late.due.act)


def _publishing(fact: Fact, trigger: Mapping[str, Any], fact_id: UUID, now: datetime) -> Outgoing:
    return outbox.publishing(
        fact,
        fact_id=fact_id,
        causation_id=trigger["fact_id"],
        stated_at=now,
        traceparent=trigger["traceparent"],
    )
