"""Which differences the rules of reconciliation find: a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from events.service import name_of
from saga_tracker.consistency.rules import Difference, differences, judged
from saga_tracker.consistency.snapshot import (
    PARTIES,
    STATUSES_AFTER,
    Awaited,
    Books,
    Ledger,
    Movement,
    SeenSaga,
    ServiceState,
)
from saga_tracker.projection import State
from saga_tracker.steps import SERVICES, STEPS
from tests.tracker.facts import ORDER

Answers = Mapping[str, ServiceState]
Found = set[tuple[str, str]]

DONE: Answers = {
    "order": ServiceState("confirmed", 500, "EUR"),
    "inventory": ServiceState("sold"),
    "payment": ServiceState("captured", 500, "EUR"),
    "fulfillment": ServiceState("dispatched"),
    "notification": ServiceState("notified", ending="confirmed"),
}
UNDONE: Answers = {
    "order": ServiceState("cancelled", 500, "EUR"),
    "inventory": ServiceState("released"),
    "payment": ServiceState("refunded", 500, "EUR"),
    "fulfillment": ServiceState("cancelled"),
    "notification": ServiceState("notified", ending="cancelled"),
}
FAILED_REFUND: Answers = {
    "order": ServiceState("withdrawn", 500, "EUR"),
    "inventory": ServiceState("reserved"),
    "payment": ServiceState("refund_failed", 500, "EUR"),
    "fulfillment": ServiceState("cancelled"),
    "notification": ServiceState(),
}
NOT_DISPATCHED: Answers = {**DONE, "fulfillment": ServiceState("dispatch_failed")}
REJECTED: Answers = {
    "order": ServiceState("cancelled", 500, "EUR"),
    "inventory": ServiceState("rejected"),
    "payment": ServiceState(),
    "fulfillment": ServiceState(),
    "notification": ServiceState("sending", ending="cancelled"),
}
FENCED: Answers = {
    **UNDONE,
    "inventory": ServiceState("fenced"),
    "payment": ServiceState("fenced", 0),
    "fulfillment": ServiceState("fenced"),
}

AUTHORISED, CAPTURED = Movement("authorised", 500, "EUR"), Movement("captured", 500, "EUR")
VOIDED, REFUNDED = Movement("voided", 500, "EUR"), Movement("refunded", 500, "EUR")
CREDITED = Movement("credited", 500, "EUR")
CHARGED = (AUTHORISED, CAPTURED)

NOTHING_READ = None
COMPLETED = SeenSaga(State.COMPLETED)
CANCELLED = SeenSaga(State.CANCELLED)
REFUND_WAIT = Awaited("payment", ("payment.refunded", "payment.declined"), "payment.refund_failed")
LATE_WAIT = Awaited("payment", ("payment.refunded", "payment.declined"), "fulfillment.shipment_cancelled")
DISPATCH_WAIT = Awaited(
    "fulfillment", ("fulfillment.shipment_dispatched",), "fulfillment.shipment_dispatch_failed"
)
NEEDS_REFUND = SeenSaga(State.NEEDS_MANUAL, (REFUND_WAIT,))
LATE_REFUND = SeenSaga(State.NEEDS_MANUAL, (LATE_WAIT,))
NEEDS_DISPATCH = SeenSaga(State.NEEDS_MANUAL, (DISPATCH_WAIT,))


def but(answers: Answers, service: str, **changes: Any) -> Answers:
    return {**answers, service: replace(answers[service], **changes)}


def without(answers: Answers, *services: str) -> Answers:
    return {service: answer for service, answer in answers.items() if service not in services}


@dataclass(frozen=True)
class Case:
    saga: SeenSaga | None
    answers: Answers
    ledger: Sequence[Movement] | None
    found: Found = field(default_factory=set)


CASES = {
    # All is well.
    "completed": Case(COMPLETED, DONE, CHARGED),
    "cancelled after a refund": Case(CANCELLED, UNDONE, (*CHARGED, REFUNDED)),
    "cancelled with a credit note": Case(CANCELLED, UNDONE, (*CHARGED, CREDITED)),
    "cancelled by a void": Case(CANCELLED, UNDONE, (AUTHORISED, VOIDED)),
    "out of stock": Case(CANCELLED, REJECTED, ()),
    "withdrawn before anything was done": Case(CANCELLED, FENCED, ()),
    "completed, customer not told": Case(COMPLETED, but(DONE, "notification", status="failed"), CHARGED),
    "told again, by a person's wish": Case(
        replace(COMPLETED, retells=True), but(DONE, "notification", status="sending"), CHARGED
    ),
    "a refund that failed": Case(NEEDS_REFUND, FAILED_REFUND, CHARGED),
    "a refund that is late": Case(LATE_REFUND, but(FAILED_REFUND, "payment", status="refunding"), CHARGED),
    "a dispatch that failed": Case(NEEDS_DISPATCH, NOT_DISPATCHED, CHARGED),
    "both confirmed and cancelled": Case(SeenSaga(State.NEEDS_MANUAL), DONE, CHARGED),
    "one that moves": Case(SeenSaga(State.COMPENSATING), DONE, (CAPTURED, CAPTURED, REFUNDED)),
    "known to nobody, not charged": Case(NOTHING_READ, {}, (AUTHORISED, VOIDED)),
    # An order that the tracker never saw is found by whoever has it.
    "unknown to the view, not charged": Case(
        NOTHING_READ, DONE, (AUTHORISED, VOIDED), {(service, "saga") for service in DONE}
    ),
    # The view and the services do not agree.
    "not sold": Case(
        COMPLETED, but(DONE, "inventory", status="reserved"), CHARGED, {("inventory", "status")}
    ),
    "a service that knows nothing": Case(
        COMPLETED, {**DONE, "fulfillment": ServiceState()}, CHARGED, {("fulfillment", "status")}
    ),
    "cancelled, by order_svc alone": Case(
        COMPLETED, but(DONE, "order", status="cancelled"), CHARGED, {("order", "status")}
    ),
    "nobody was told": Case(
        COMPLETED, but(DONE, "notification", status="sending"), CHARGED, {("notification", "status")}
    ),
    "told otherwise": Case(
        CANCELLED, but(UNDONE, "notification", ending="confirmed"), (), {("notification", "ending")}
    ),
    "still reserved": Case(
        CANCELLED, but(UNDONE, "inventory", status="reserved"), (), {("inventory", "status")}
    ),
    "still captured": Case(
        CANCELLED,
        but(UNDONE, "payment", status="captured"),
        CHARGED,
        {("payment", "status"), ("provider", "money")},
    ),
    "stock came back because of a payment that knows nothing": Case(
        CANCELLED, {**UNDONE, "payment": ServiceState()}, (), {("payment", "status")}
    ),
    "another amount": Case(
        COMPLETED,
        but(DONE, "payment", amount_minor=400),
        CHARGED,
        {("payment", "amount"), ("provider", "money")},
    ),
    "another currency": Case(
        COMPLETED,
        but(DONE, "payment", currency="USD"),
        CHARGED,
        {("payment", "amount"), ("provider", "money")},
    ),
    "its refund is done, but its fact never came": Case(
        NEEDS_REFUND,
        but(FAILED_REFUND, "payment", status="refunded"),
        (*CHARGED, REFUNDED),
        {("payment", "status")},
    ),
    "its late refund is done, but its fact never came": Case(
        LATE_REFUND,
        but(FAILED_REFUND, "payment", status="refunded"),
        (*CHARGED, REFUNDED),
        {("payment", "status")},
    ),
    "a failed undo that its service has forgotten": Case(
        NEEDS_REFUND, but(FAILED_REFUND, "payment", status="captured"), CHARGED, {("payment", "status")}
    ),
    "a dispatch that failed here only": Case(
        NEEDS_DISPATCH, but(DONE, "fulfillment", status="scheduled"), CHARGED, {("fulfillment", "status")}
    ),
    # The provider.
    "completed, not charged": Case(COMPLETED, DONE, (AUTHORISED,), {("provider", "money")}),
    "charged twice": Case(
        COMPLETED, DONE, (*CHARGED, CAPTURED), {("provider", "movements"), ("provider", "money")}
    ),
    "given back twice": Case(
        CANCELLED, UNDONE, (*CHARGED, REFUNDED, CREDITED), {("provider", "movements"), ("provider", "money")}
    ),
    "given back although completed": Case(COMPLETED, DONE, (*CHARGED, REFUNDED), {("provider", "money")}),
    "cancelled, not given back": Case(CANCELLED, UNDONE, CHARGED, {("provider", "money")}),
    "cancelled, still set aside": Case(CANCELLED, UNDONE, (AUTHORISED,), {("provider", "money")}),
    "charged for an order nobody spoke of": Case(NOTHING_READ, {}, CHARGED, {("provider", "money")}),
    "a manual case without its charge": Case(NEEDS_DISPATCH, NOT_DISPATCHED, (), {("provider", "money")}),
    # What a person settled outside excuses that, and nothing else.
    "settled": Case(CANCELLED, but(UNDONE, "payment", settled_by="ada"), CHARGED),
    "settled while set aside": Case(CANCELLED, but(UNDONE, "payment", settled_by="ada"), (AUTHORISED,)),
    "settled, but charged twice": Case(
        CANCELLED,
        but(UNDONE, "payment", settled_by="ada"),
        (*CHARGED, CAPTURED),
        {("provider", "movements"), ("provider", "money")},
    ),
    "settled, but partly given back": Case(
        CANCELLED,
        but(UNDONE, "payment", settled_by="ada"),
        (*CHARGED, Movement("refunded", 100, "EUR")),
        {("provider", "money")},
    ),
    "settled, but still reserved": Case(
        CANCELLED,
        but(but(UNDONE, "payment", settled_by="ada"), "inventory", status="reserved"),
        CHARGED,
        {("inventory", "status")},
    ),
    "settled, but for completion": Case(
        COMPLETED,
        but(DONE, "payment", status="refunded", settled_by="ada"),
        (*CHARGED, REFUNDED),
        {("payment", "status"), ("provider", "money")},
    ),
    # Who does not answer says nothing wrong.
    "nobody answers": Case(COMPLETED, {}, None),
    "the provider does not answer": Case(COMPLETED, DONE, None),
    "payment does not answer": Case(CANCELLED, without(UNDONE, "payment"), CHARGED),
    "order does not answer": Case(COMPLETED, without(DONE, "order"), CHARGED),
    "inventory does not answer": Case(CANCELLED, without(REJECTED, "inventory"), ()),
}


def found_in(saga: SeenSaga | None, answers: Answers, ledger: Sequence[Movement] | None) -> list[Difference]:
    book = Books(answers, None if ledger is None else Ledger(ledger), saga=saga)
    return list(differences(ORDER, book))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_what_does_not_fit(case: Case) -> None:
    found = found_in(case.saga, case.answers, case.ledger)
    assert {(each.party, each.about) for each in found} == case.found, found
    assert all(each.order_id == ORDER and each.expected != each.found for each in found)


def test_a_difference_says_what_was_expected_and_what_was_found() -> None:
    [difference] = found_in(COMPLETED, DONE, (*CHARGED, REFUNDED))
    assert (difference.expected, difference.found) == ("500 EUR charged", "0 EUR charged")
    [difference] = found_in(NEEDS_REFUND, but(FAILED_REFUND, "payment", status="refunded"), None)
    assert (difference.expected, difference.found) == ("refund_failed", "refunded")
    [difference] = found_in(LATE_REFUND, but(FAILED_REFUND, "payment", status="refunded"), None)
    assert difference.expected == "not there yet: payment.refunded or payment.declined was never read"


def test_each_fact_that_is_waited_for_has_its_statuses() -> None:
    awaited = {name_of(kind) for step in STEPS for kind in step.results}
    assert awaited <= STATUSES_AFTER.keys(), awaited - STATUSES_AFTER.keys()


def test_the_last_word_needs_every_input_that_was_asked() -> None:
    everybody = frozenset(PARTIES)
    assert judged(everybody, everybody) == everybody
    assert judged(everybody - {"order"}, everybody) == everybody - {"order", "payment"}
    assert judged(everybody - {"payment"}, everybody) == everybody - {"payment", "provider"}
    services = frozenset(SERVICES)
    assert judged(services, services) == services
    assert judged(services - {"order"}, services - {"order"}) == services - {"order"}
