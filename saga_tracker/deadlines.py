"""When something has to be done about a late service, and what. Pure.

A service that owes a fact is late once its step's deadline has passed. Then it is sent the fact that it
should have received once more. If that does not help either, the saga times out: its owner withdraws the
order, unless it is confirmed already. So it does when the owner itself does not end what is undone: it may
never have known of the order. What cannot be withdrawn, an undo or a step after the pivot, becomes a matter
for a person. A parked saga has no deadline but that of its approval.

A deadline says that a service that works has not answered: see `availability` for those that cannot.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from events.facts.order import OrderCreated
from events.facts.payment import PaymentHeld
from events.service import name_of
from saga_tracker.availability import ALWAYS, Availability, Time
from saga_tracker.projection import Saga, State, Wait
from saga_tracker.steps import PATIENT, SUBSCRIBED


class Act(StrEnum):
    """What the tracker does when a deadline has passed."""

    REDRIVE = "redrive"
    TIME_OUT = "time_out"
    CALL_OVERDUE = "call_overdue"
    EXPIRE_APPROVAL = "expire_approval"


@dataclass(frozen=True, slots=True)
class Rules:
    """How long everything may take. `step_seconds` is by service, or by `service:fact that it received`."""

    step_seconds: Mapping[str, float]
    redrive_grace_seconds: float
    saga_seconds: float
    overdue_after_seconds: float
    approval_seconds: float

    def seconds_of(self, service: str, trigger: str) -> float:
        """How long a service may take for the step that follows the fact of this name."""
        return self.step_seconds.get(f"{service}:{trigger}", self.step_seconds[service])

    def times_of(self, saga: Saga) -> dict[tuple[str, str], tuple[datetime, float]]:
        """For which steps of which services it waits, since when, and how long each may take."""
        return {
            (wait.service, wait.step): (wait.since, self.seconds_of(wait.service, wait.because_of))
            for wait in saga.waits
            if not wait.person and wait.overdue_at is None
        }


@dataclass(frozen=True, slots=True)
class Due:
    """What comes next about one wait, and when."""

    act: Act
    at: datetime
    wait: Wait


_FORWARD = (State.PENDING_INVENTORY, State.PENDING_PAYMENT, State.AWAITING_APPROVAL, State.PENDING_SHIPMENT)
_HELD = name_of(PaymentHeld)
OWNER = OrderCreated.owner


def due(
    saga: Saga, rules: Rules, not_before: datetime = ALWAYS, availability: Availability | None = None
) -> tuple[Due, ...]:
    """What comes next about each wait that has a deadline, if no answer comes.

    With `not_before` as though nothing had been waited for until then: while nobody could be reached, nobody
    was late. With `availability` as though no service had been waited for while it was down.
    """
    found = (_next(saga, wait, rules, not_before, availability) for wait in saga.waits)
    return tuple(due for due in found if due is not None)


def due_at(wait: Wait, dues: tuple[Due, ...]) -> datetime | None:
    """When something is to be done about this wait."""
    return next((due.at for due in dues if due.wait == wait), None)


def _next(
    saga: Saga, wait: Wait, rules: Rules, not_before: datetime, availability: Availability | None
) -> Due | None:
    since = max(wait.since, not_before)
    if wait.person:
        if wait.because_of != _HELD:
            return None
        # Here too the time counts in which nobody could be reached: people decide by the calendar.
        return Due(Act.EXPIRE_APPROVAL, wait.since + timedelta(seconds=rules.approval_seconds), wait)
    if wait.overdue_at is not None:
        return None
    time, whole_from = Time(since, since), max(saga.unparked_at, not_before)
    if availability is not None:
        seconds = rules.seconds_of(wait.service, wait.because_of)
        time = availability.time_of(wait.service, wait.step, since, seconds)
        whole_from = max(whole_from, availability.anew_at)
    withdrawable = saga.state in _FORWARD and not saga.timed_out

    def late_at(begins: datetime) -> datetime:
        """When its time is over that begins then, or the whole saga's, which does not begin before either."""
        at = begins + timedelta(seconds=rules.seconds_of(wait.service, wait.because_of))
        whole = max(whole_from, begins) if begins > since else whole_from
        if not withdrawable or (wait.because_of, wait.service) in PATIENT:
            return at
        return min(at, whole + timedelta(seconds=rules.saga_seconds))

    if wait.redriven_at is None and (wait.because_of, wait.service) in SUBSCRIBED:
        return Due(Act.REDRIVE, late_at(time.redrive_from), wait)
    tried_at = late_at(since) if wait.redriven_at is None else max(wait.redriven_at, not_before)
    if time.give_up_from > since:
        # It was down, or busy with those before, while this one waited: all its time begins then.
        tried_at = max(tried_at, late_at(time.give_up_from))
    unended = saga.state is State.COMPENSATING and wait.service == OWNER and not saga.timed_out
    if withdrawable or unended:
        return Due(Act.TIME_OUT, tried_at + timedelta(seconds=rules.redrive_grace_seconds), wait)
    return Due(Act.CALL_OVERDUE, tried_at + timedelta(seconds=rules.overdue_after_seconds), wait)
