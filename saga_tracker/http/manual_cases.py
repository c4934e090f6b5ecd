"""Manual cases: a service has failed for good to undo or to dispatch, and a person answers.

Each failure is answered once: the service is asked to try again, or informed that it was settled outside. The
ids of both facts derive from the failure's, so that saying them twice is saying them once. A retry that fails
is a failure of its own, with an answer of its own.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid5

from sqlalchemy import bindparam, func, select

from events.facts.base import Fact
from events.facts.fulfillment import LabelRefundRejected
from events.facts.notification import CustomerNotified, MailBounced, NotificationFailed
from events.facts.payment import PaymentRefundReversed
from events.facts.saga import RetryRequested, Settled
from events.http.authentication import Identity
from events.service import name_of
from events.storage.database import Connection
from events.storage.sql import compiled
from saga_tracker.http import audit
from saga_tracker.http.audit import Entry
from saga_tracker.scheduler import redrive as outbox
from saga_tracker.steps import STEPS
from saga_tracker.tables import FIRST_READ_AT, saga_facts

# By the failure's name, the facts that end it. That the customer could not be notified undoes nothing and
# leaves the saga as it is, but it can be tried again.
ANSWERS: dict[str, tuple[str, ...]] = {
    name_of(step.trigger): tuple(name_of(kind) for kind in step.results if not kind.case)
    for step in STEPS
    if step.trigger.case
} | {name_of(kind): (name_of(CustomerNotified),) for kind in (NotificationFailed, MailBounced)}
# What had been published as done, and was not: each follows such a fact, and is over with the next one.
AFTERWARDS = frozenset(map(name_of, (PaymentRefundReversed, LabelRefundRejected, MailBounced)))
_HOLDING_UP = ANSWERS.keys() - {name_of(NotificationFailed), name_of(MailBounced)}
_TIMELINE = compiled(
    select(saga_facts.c.fact_id, saga_facts.c.wire_name, saga_facts.c.traceparent)
    .where(saga_facts.c.order_id == bindparam("order_id"))
    .order_by(FIRST_READ_AT, saga_facts.c.fact_id)
)
_NOW = compiled(select(func.now().label("now")))


@dataclass(frozen=True, slots=True)
class ManualCase:
    """A service's failure: the fact that says so."""

    fact_id: UUID
    order_id: UUID
    service: str
    name: str
    traceparent: str | None


async def unanswered(connection: Connection, order_id: UUID) -> list[ManualCase]:
    """The failures that hold an order's saga up and that nobody has answered yet, the earliest first."""
    cursor = await connection.execute(_TIMELINE, {"order_id": order_id})
    cases = cases_in(order_id, await cursor.fetchall())
    answered = await audit.answered(connection, [case.fact_id for case in cases])
    return [case for case in cases if case.fact_id not in answered]


def cases_in(order_id: UUID, timeline: Sequence[Mapping[str, Any]]) -> list[ManualCase]:
    """The failures in an order's timeline that hold its saga up, unless they are over."""
    published = Counter(name_of(fact["wire_name"]) for fact in timeline)
    cases: list[ManualCase] = []
    for fact in timeline:
        name = name_of(fact["wire_name"])
        if name not in _HOLDING_UP:
            continue
        before = published[name] if name in AFTERWARDS else 0
        if sum(published[answer] for answer in ANSWERS[name]) <= before:
            service = name.partition(".")[0]
            cases.append(ManualCase(fact["fact_id"], order_id, service, name, fact["traceparent"]))
    return cases


async def ask_again(
    connection: Connection, case: ManualCase, *, who: Identity, note: str, letter_id: UUID | None = None
) -> bool:
    """Have the service try again once this is committed; False if the case has been answered already."""
    fact = RetryRequested(order_id=case.order_id, service=case.service, by=who.name, note=note)
    entry = Entry.of(who, "retry_requested", note, case.service, case.order_id, letter_id, case.fact_id)
    return await _result(connection, case, fact, entry)


async def settle(connection: Connection, case: ManualCase, *, who: Identity, note: str) -> bool:
    """Have the service state what was missing, once this is committed; False if the case has its answer."""
    fact = Settled(order_id=case.order_id, service=case.service, by=who.name, note=note)
    entry = Entry.of(who, "settled", note, case.service, case.order_id, None, case.fact_id)
    return await _result(connection, case, fact, entry)


async def _result(connection: Connection, case: ManualCase, fact: Fact, entry: Entry) -> bool:
    if not await audit.enter(connection, [entry]):
        return False
    cursor = await connection.execute(_NOW)
    row = await cursor.fetchone()
    assert row is not None
    published = outbox.publishing(
        fact,
        fact_id=uuid5(case.fact_id, entry.action),
        causation_id=case.fact_id,
        stated_at=row["now"],
        traceparent=case.traceparent,
    )
    await outbox.enter(connection, [published])
    return True
