"""What the facts known of an order say about its saga.

A pure function of the *set* of facts: they arrive in any order and more than once, and the order in which
they were read never matters. A fact also says that its causes happened, whether or not they were read yet.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from events.facts.base import Fact
from events.facts.fulfillment import (
    LabelRefundRejected,
    ShipmentCancelFailed,
    ShipmentCancelled,
    ShipmentDispatched,
    ShipmentDispatchFailed,
    ShipmentRejected,
    ShipmentScheduled,
)
from events.facts.inventory import StockReleased
from events.facts.notification import CustomerNotified, MailBounced, NotificationFailed
from events.facts.order import OrderCancelled, OrderConfirmed, OrderCreated, OrderWithdrawn
from events.facts.payment import (
    PaymentApproved,
    PaymentCaptured,
    PaymentDeclined,
    PaymentHeld,
    PaymentRefunded,
    PaymentRefundFailed,
    PaymentRefundPending,
    PaymentRefundReversed,
)
from events.facts.saga import (
    ApprovalExpired,
    RetryRequested,
    SagaOverdue,
    SagaRedriven,
    SagaTimedOut,
    Settled,
)
from events.service import Step, name_of
from saga_tracker.causes.cause import as_late, in_full
from saga_tracker.ladder import LADDER, PAST_PIVOT, TURNED_BACK, Rung
from saga_tracker.ladder import State as State
from saga_tracker.steps import AFTER_THE_PIVOT, COMPLETING, STEPS

ENDED = (State.COMPLETED, State.CANCELLED)


class SagaFact(NamedTuple):
    """As much of a fact as the projection needs. `name` has no version, so that versions may move on.

    `read_at` is when the tracker first read it, by its database's clock: everything counts from that. What
    its publisher says of the time, `stated_at`, tells nothing of its saga. What the tracker publishes names a
    `service`, and by `about` the fact that was redriven, is overdue to be answered, or gets word of what
    a person has taken up. By its `content` a repetition differs from something else before it gets here.
    """

    fact_id: UUID
    name: str
    read_at: datetime
    stated_at: datetime | None = None
    reason: str | None = None
    ending: str | None = None
    trace_id: str | None = None
    service: str | None = None
    about: UUID | None = None
    content: int | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    """Any one of `facts` from `service` ends it. `because_of` is the fact that made it their turn.

    `redriven_at`: when that fact was sent to the service once more. `overdue_at`: when it was given up that
    the service will answer by itself.
    """

    service: str
    facts: tuple[str, ...]
    since: datetime
    because_of: str
    because_of_id: UUID
    person: bool
    redriven_at: datetime | None = None
    overdue_at: datetime | None = None

    @property
    def step(self) -> str:
        """Its name, as the deadlines' settings have it: `payment:inventory.stock_reserved`."""
        return f"{self.service}:{self.because_of}"


@dataclass(frozen=True, slots=True)
class Saga:
    """One order's saga. All instants are those at which facts were first read, by one clock.

    `unparked_at`: when it began or, if a person had to approve it, when its way forward was free again.
    """

    state: State
    since: datetime
    waits: tuple[Wait, ...]
    timed_out: bool
    started_at: datetime
    unparked_at: datetime
    ended_at: datetime | None
    reason: str | None
    trace_id: str | None
    fact_count: int


_STEPS_AFTER: dict[str, list[Step]] = {}
for _step in STEPS:
    _STEPS_AFTER.setdefault(name_of(_step.trigger), []).append(_step)
_NAMES = {kind: name_of(kind) for step in STEPS for kind in (step.trigger, *step.results)}
_NAMES |= {kind: name_of(kind) for kind in (SagaRedriven, SagaOverdue)}
_NOTIFICATION = CustomerNotified.owner


class _Known:
    """The facts of one order, once each; of several facts of one name the earliest counts.

    An order began no later than anything else happened to it, in whatever order that was read.
    """

    def __init__(self, facts: Iterable[SagaFact]) -> None:
        self.all = sorted({fact.fact_id: fact for fact in facts}.values(), key=_when)
        created = next((fact for fact in self.all if fact.name == _NAMES[OrderCreated]), None)
        if created is not None and created is not self.all[0]:
            began = created._replace(read_at=self.all[0].read_at)
            self.all = [began, *(fact for fact in self.all if fact is not created)]
        self._first: dict[str, SagaFact] = {}
        self._each: dict[str, list[SagaFact]] = {}
        for fact in self.all:
            # Telling of a cancellation comes after the end, and says nothing that its cause does not.
            if fact.ending != "cancelled":
                self._first.setdefault(fact.name, fact)
                self._each.setdefault(fact.name, []).append(fact)

    def first(self, *kinds: type[Fact]) -> SagaFact | None:
        """The earliest fact of these kinds."""
        found = [self._first[name] for kind in kinds if (name := _NAMES[kind]) in self._first]
        return min(found, key=_when) if len(found) > 1 else next(iter(found), None)

    def each(self, *kinds: type[Fact]) -> list[SagaFact]:
        """Every fact of these kinds, the earliest first."""
        return sorted((fact for kind in kinds for fact in self._each.get(_NAMES[kind], ())), key=_when)

    def waits(self, because: SagaFact, after: type[Fact] | None = None) -> tuple[Wait, ...]:
        """Whose turn it is since `because`, or since `after` if that followed from it unseen."""
        name = _NAMES[after] if after else because.name
        turns = [
            step
            for step in _STEPS_AFTER.get(name, ())
            if step.owed_for(because.read_at, because.stated_at) and self.first(*step.results) is None
        ]
        return tuple(_wait(step, because) for step in turns)

    def taken_up(self, failure: type[Fact]) -> tuple[SagaFact, SagaFact | None]:
        """The failure that counts, of one or several, and whereby a person took that up, if they did.

        They are counted, for failures and people's acts come from different publishers, each in its own time.
        """
        failures = self.each(failure)
        acts = [act for act in self.each(RetryRequested, Settled) if act.service == failure.owner]
        about = {act.about or act.fact_id for act in acts}
        if len(failures) <= len(about):
            return failures[-1], acts[-1]
        return [failed for failed in failures if failed.fact_id not in about][-1], None

    def waits_again(self, act: SagaFact) -> tuple[Wait, ...]:
        """For what failed before, and so was answered before; or for what is pending since."""
        pending = [fact for fact in self.each(PaymentRefundPending) if fact.read_at >= act.read_at]
        is_pending = pending and act.service == PaymentRefundPending.owner
        return _waits_of(act.service, pending[-1] if is_pending else act)

    def unnotified(self, ended: SagaFact) -> tuple[Wait, ...]:
        """What notification owes after the end: the news, or that it has tried once more to bring it."""
        notices, bounced, failed = (
            [fact for fact in self.all if fact.name == _NAMES[kind]]
            for kind in (CustomerNotified, MailBounced, NotificationFailed)
        )
        # Each mail that came back had notified them, and is over with the next notice.
        if len(notices) > len(bounced):
            return ()
        failed += bounced
        if not failed:
            return _waits_of(_NOTIFICATION, ended)
        acts = [act for act in self.each(RetryRequested, Settled) if act.service == _NOTIFICATION]
        again = len({act.about or act.fact_id for act in acts}) >= len(failed)
        return _waits_of(_NOTIFICATION, acts[-1]) if again else ()

    def why_unnotified(self) -> str | None:
        """Why the customer does not know of the confirmation, as far as was tried."""
        bounced, failed = self.each(MailBounced), self.first(NotificationFailed)
        if len(self.each(CustomerNotified)) > len(bounced):
            return None
        return bounced[-1].reason if bounced else failed.reason if failed else None

    def late(self, wait: Wait) -> Wait:
        """The wait, with what the tracker has done about it."""
        key = (wait.service, wait.because_of_id)
        redriven, overdue = (
            next((fact.read_at for fact in self.each(kind) if (fact.service, fact.about) == key), None)
            for kind in (SagaRedriven, SagaOverdue)
        )
        return replace(wait, redriven_at=redriven, overdue_at=overdue)


def _wait(step: Step, because: SagaFact) -> Wait:
    return Wait(
        service=step.service,
        facts=tuple(_NAMES[kind] for kind in step.results),
        since=because.read_at,
        because_of=because.name,
        because_of_id=because.fact_id,
        person=step.person,
    )


def _waits_of(service: str | None, because: SagaFact) -> tuple[Wait, ...]:
    """What one service owes because of this fact, whatever it may have answered before."""
    return tuple(_wait(step, because) for step in _STEPS_AFTER[because.name] if step.service == service)


@dataclass(frozen=True, slots=True)
class _Standing:
    state: State
    since: datetime
    waits: tuple[Wait, ...] = ()
    reason: str | None = None


def project(facts: Collection[SagaFact]) -> Saga:
    """The saga that the facts known of one order tell of. Raises ValueError when there are none."""
    if not facts:
        raise ValueError("a saga begins with a fact")
    known = _Known(facts)
    standing = _noting_lateness(_reversed(_stand(known), known), known)
    created = known.first(OrderCreated)
    started_at = (created or known.all[0]).read_at
    return Saga(
        state=standing.state,
        since=standing.since,
        waits=standing.waits,
        timed_out=known.first(SagaTimedOut) is not None,
        started_at=started_at,
        unparked_at=_unparked_at(known) or started_at,
        ended_at=standing.since if standing.state in ENDED else None,
        reason=standing.reason,
        trace_id=next((fact.trace_id for fact in (created, *known.all) if fact and fact.trace_id), None),
        fact_count=len(known.all),
    )


def _unparked_at(known: _Known) -> datetime | None:
    freed = known.first(PaymentApproved) or known.first(ApprovalExpired)
    if freed is None and known.first(PaymentHeld):
        freed = known.first(PaymentCaptured)
    return freed.read_at if freed else None


def _noting_lateness(standing: _Standing, known: _Known) -> _Standing:
    """With what the tracker did about late services; one that is overdue is a matter for a person."""
    if known.first(SagaRedriven, SagaOverdue) is None:
        return standing
    waits = tuple(map(known.late, standing.waits))
    overdue = [(wait.overdue_at, wait) for wait in waits if wait.overdue_at]
    if not overdue or standing.state is State.NEEDS_MANUAL:
        return replace(standing, waits=waits)
    since, wait = min(overdue, key=lambda late: (late[0], late[1].service))
    return _Standing(State.NEEDS_MANUAL, since, waits, f"overdue: {wait.facts[0]}")


def _stand(known: _Known) -> _Standing:
    pivot = known.first(OrderConfirmed) or known.first(*PAST_PIVOT)
    cancelled = known.first(OrderCancelled)
    if pivot and cancelled:
        since = max(pivot.read_at, cancelled.read_at)
        return _Standing(State.NEEDS_MANUAL, since, reason=f"both {pivot.name} and {cancelled.name}")
    if cancelled:
        why = in_full(cancelled.reason, known.first(SagaTimedOut))
        return _Standing(State.CANCELLED, cancelled.read_at, known.unnotified(cancelled), why)
    if pivot:
        return _past_pivot(known, pivot)
    return _on_ladder(known)


# What was undone for certain, and was not after all: after which facts that may be, and what comes of another
# attempt that fails.
_LATE_FAILURES: tuple[tuple[type[Fact], tuple[type[Fact], ...], type[Fact]], ...] = (
    (PaymentRefundReversed, (PaymentRefunded, PaymentDeclined), PaymentRefundFailed),
    (LabelRefundRejected, (ShipmentCancelled, ShipmentRejected), ShipmentCancelFailed),
)


def _reversed(standing: _Standing, known: _Known) -> _Standing:
    """An undo that failed after it was published is for a person, wherever the order stands by now.

    They are counted: each one that failed follows an undo, and is over with the next.
    """
    for late, undone, again in _LATE_FAILURES:
        failures = known.each(late)
        if len(failures) < max(1, len(known.each(*undone))):
            continue
        acts = known.each(RetryRequested, Settled)
        about = {act.about for act in acts}
        # The last of them, or another attempt that failed since.
        tried = (failures[-1], *known.each(again))
        failed = next((fact for fact in tried if fact.fact_id not in about), None)
        if failed is not None:
            waits = standing.waits + _waits_of(late.owner, failed)
            now = _Standing(State.NEEDS_MANUAL, failed.read_at, waits, failed.reason)
        else:
            act = [act for act in acts if act.service == late.owner][-1]
            waits = standing.waits + known.waits_again(act)
            now = _Standing(State.COMPENSATING, act.read_at, waits, failures[-1].reason)
        # What is for a person already stays so.
        standing = replace(standing, waits=waits) if standing.state is State.NEEDS_MANUAL else now
    return standing


def _past_pivot(known: _Known, pivot: SagaFact) -> _Standing:
    """From here only forward. All that is still missing is waited for at once, order.confirmed included."""
    owed = known.waits(pivot, ShipmentScheduled) + known.waits(pivot, OrderConfirmed)
    waits = tuple(wait for wait in owed if wait.service in COMPLETING)
    later = tuple(wait for wait in owed if wait.service not in COMPLETING)
    dispatched = known.first(ShipmentDispatched)
    unnotified = known.why_unnotified()
    since = pivot.read_at
    if known.first(ShipmentDispatchFailed) and not dispatched:
        failed, act = known.taken_up(ShipmentDispatchFailed)
        if act is None:
            return _Standing(State.NEEDS_MANUAL, failed.read_at, owed + known.waits(failed), failed.reason)
        waits += known.waits_again(act)
        since = act.read_at
    if waits:
        return _Standing(State.COMPLETING, since, waits + later, unnotified)
    others = [
        known.first(*step.results) for step in AFTER_THE_PIVOT if ShipmentDispatched not in step.results
    ]
    ended_at = max(fact.read_at for fact in (pivot, dispatched, *others) if fact)
    return _Standing(State.COMPLETED, ended_at, later + known.unnotified(pivot), unnotified)


def _on_ladder(known: _Known) -> _Standing:
    late = known.first(SagaTimedOut)
    for rung in LADDER:
        fact = known.first(*rung.reached_by)
        if fact is None:
            continue
        if rung.state is State.NEEDS_MANUAL:
            return _failed_undo(known, rung)
        since = fact.read_at if rung.anew else _entered(known, rung.state) or fact.read_at
        if rung.state is State.COMPENSATING:
            return _Standing(rung.state, since, known.waits(fact), _why_back(known, fact))
        if late:
            return _Standing(rung.state, since, known.waits(late), as_late(late.reason))
        return _Standing(rung.state, since, known.waits(fact))
    if late:
        return _Standing(State.PENDING_INVENTORY, late.read_at, known.waits(late), as_late(late.reason))
    # Only that the customer was notified of a cancellation, which has not been read itself yet.
    notice = next((fact for fact in known.all if fact.ending), None)
    if notice is None:
        # Only what the tracker published itself. What it was about will be read.
        return _Standing(State.PENDING_INVENTORY, known.all[0].read_at)
    return _Standing(State.COMPENSATING, notice.read_at, known.waits(notice, StockReleased), notice.reason)


def _failed_undo(known: _Known, rung: Rung) -> _Standing:
    """A matter for a person until somebody has taken it up, and again when that fails.

    Meanwhile whoever is to learn that it turned back owes the sign of that all the same.
    """
    failed, act = known.taken_up(*rung.reached_by)
    turns = known.first(SagaTimedOut), known.first(OrderWithdrawn)
    waits = tuple(wait for turn in turns if turn for wait in known.waits(turn))
    if act is None:
        return _Standing(State.NEEDS_MANUAL, failed.read_at, waits + known.waits(failed), failed.reason)
    again = known.waits_again(act)
    return _Standing(State.COMPENSATING, act.read_at, waits + again, _why_back(known, failed))


def _why_back(known: _Known, fact: SagaFact) -> str | None:
    turned = known.first(OrderWithdrawn) or known.first(*TURNED_BACK) or fact
    return in_full(turned.reason, known.first(SagaTimedOut))


def _entered(known: _Known, state: State) -> datetime | None:
    """When the first fact was read that puts a saga into this state."""
    first = known.first(*(kind for rung in LADDER if rung.state is state for kind in rung.reached_by))
    return first.read_at if first else None


def _when(fact: SagaFact) -> tuple[datetime, UUID]:
    return fact.read_at, fact.fact_id
