"""The plays can fail: each of these bugs is planted in one service's `decide`, and is caught."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest

from events.decision import Call, Command, Decision, GaveUp
from events.facts import Fact
from events.facts.fulfillment import ShipmentCancelled, ShipmentScheduled
from events.facts.inventory import StockReleased, StockReserved
from events.facts.order import OrderConfirmed, OrderCreated
from events.facts.payment import PaymentDeclined, PaymentRefunded
from events.facts.saga import ApprovalExpired, RetryRequested, SagaTimedOut, Settled
from fulfillment_svc.shipment import Unbooked
from inventory_svc.decide import Shelf
from order_svc.decide import Order
from payment_svc.decide import DEFAULT, decide
from payment_svc.payment import (
    AuthorisationDeclined,
    Authorise,
    Capture,
    CaptureRefused,
    Notified,
    Pending,
    Stands,
    Undone,
)
from saga_tracker.projection import Saga, SagaFact, State, project
from saga_tracker.scheduler.redrive import needs_the_beginning
from tests.decide.given import LIMIT_MINOR, SERVICE
from tests.decide.table import Decide
from tests.world.explore import OVERDUE, explore
from tests.world.lost import LossyStage
from tests.world.plays import (
    ABOVE_LIMIT,
    ADA,
    BOB,
    ONE_PEAR,
    PLENTY,
    approval_expired,
    cancelled,
    posted,
    published,
    timed_out,
)
from tests.world.stage import Bug, Stage
from tests.world.world import Inconsistent

Decided = Decision[Any, Any, Any]


def forgets_fences(service: str) -> Decide:
    """Undoes what was not done yet, but does not remember that it must never be done."""

    def decide(state: Any, message: Any) -> Decided:
        answer = SERVICE[service].decide(state, message)
        if isinstance(answer.state, Shelf):
            reservation = answer.state.reservation
            if reservation is not None and reservation.status == "fenced":
                return replace(answer, state=replace(answer.state, reservation=None))
        elif answer.state is not None and answer.state.status == "fenced":
            return replace(answer, state=None)
        return answer

    return decide


def inventory_trusts_its_inbox(shelf: Shelf, message: Any) -> Decided:
    """Releases without looking whether it has released already: right while nothing is received twice."""
    real, held = SERVICE["inventory"].decide, shelf.reservation
    undone = isinstance(message, PaymentRefunded | PaymentDeclined)
    if undone and held is not None and held.status == "released":
        again = real(replace(shelf, reservation=replace(held, status="reserved")), message)
        return Decision(again.state)
    return real(shelf, message)


def inventory_oversells(shelf: Shelf, message: Any) -> Decided:
    """Takes one more than there is."""

    def seen(by: Shelf, more: int) -> Shelf:
        stock = {sku: replace(one, available=one.available + more) for sku, one in by.stock.items()}
        return replace(by, stock=stock)

    answer = SERVICE["inventory"].decide(seen(shelf, 1), message)
    return replace(answer, state=seen(answer.state, -1))


def payment_ignores_a_withdrawal_in_flight(payment: Any, message: Any) -> Decided:
    if isinstance(message, ShipmentCancelled) and payment and payment.status in ("authorising", "capturing"):
        return Decision(payment)
    return SERVICE["payment"].decide(payment, message)


def payment_takes_a_lost_answer_for_a_refusal(payment: Any, message: Any) -> Decided:
    if isinstance(message, GaveUp) and isinstance(message.call, Authorise | Capture):
        message = AuthorisationDeclined("timeout")
    return SERVICE["payment"].decide(payment, message)


def payment_declines_without_voiding(payment: Any, message: Any) -> Decided:
    if isinstance(message, CaptureRefused):
        message = AuthorisationDeclined(message.reason)
    return SERVICE["payment"].decide(payment, message)


def payment_fences_only_once(payment: Any, message: Any) -> Decided:
    """Ignores the first fact that meets its fence, and not the same fact when it is sent once more."""
    real = SERVICE["payment"].decide
    if payment is not None and payment.status == "fenced" and isinstance(message, StockReserved):
        return real(None, message) if payment.currency else Decision(replace(payment, currency="EUR"))
    return real(payment, message)


def payment_declines_what_was_approved(payment: Any, message: Any) -> Decided:
    if isinstance(message, ApprovalExpired) and payment is not None and payment.status == "authorising":
        payment = replace(payment, status="held")
    return SERVICE["payment"].decide(payment, message)


def payment_refunds_again_under_a_new_key(payment: Any, message: Any) -> Decided:
    """Takes every failure for a refusal, and so pays back twice what may have been paid back."""
    if isinstance(message, RetryRequested) and payment is not None:
        payment = replace(payment, round=payment.round + 1)
    return SERVICE["payment"].decide(payment, message)


def payment_ignores_a_settlement(payment: Any, message: Any) -> Decided:
    return Decision(payment) if isinstance(message, Settled) else SERVICE["payment"].decide(payment, message)


def payment_settles_once_more(payment: Any, message: Any) -> Decided:
    if isinstance(message, Settled) and payment is not None and payment.settled_by:
        payment = replace(payment, status="refund_failed")
    return SERVICE["payment"].decide(payment, message)


def payment_settles_what_is_not_its_own(payment: Any, message: Any) -> Decided:
    if isinstance(message, Settled) and payment is not None and payment.status == "captured":
        payment = replace(payment, status="refund_failed")
        message = message.model_copy(update={"service": "payment"})
    return SERVICE["payment"].decide(payment, message)


def fulfillment_assumes_it_was_cancelled(shipment: Any, message: Any) -> Decided:
    if isinstance(message, GaveUp) and message.call.name == "cancel_shipment":
        message = Unbooked()
    return SERVICE["fulfillment"].decide(shipment, message)


def order_confirms_what_was_withdrawn(order: Order | None, message: Any) -> Decided:
    if isinstance(message, ShipmentScheduled) and order and order.begun and order.status == "withdrawn":
        order = replace(order, status="placed")
    return SERVICE["order"].decide(order, message)


def order_withdraws_what_is_confirmed(order: Order | None, message: Any) -> Decided:
    if isinstance(message, SagaTimedOut) and order and order.status == "confirmed":
        order = replace(order, status="placed")
    return SERVICE["order"].decide(order, message)


def order_forgets_what_overtook_its_creation(order: Order | None, message: Any) -> Decided:
    if order is None and isinstance(message, ShipmentScheduled | StockReleased):
        return Decision(None)
    return SERVICE["order"].decide(order, message)


def order_says_it_is_cancelled_too_early(order: Order | None, message: Any) -> Decided:
    answer = SERVICE["order"].decide(order, message)
    if isinstance(message, Command) and answer.state is not None and answer.state.status == "withdrawn":
        early = SERVICE["order"].decide(answer.state, StockReleased(order_id=ADA, reason="withdrawn"))
        return replace(early, facts=answer.facts + early.facts)
    return answer


def inventory_sells_silently(shelf: Shelf, message: Any) -> Decided:
    answer = SERVICE["inventory"].decide(shelf, message)
    return replace(answer, facts=()) if isinstance(message, OrderConfirmed) else answer


def order_waits_for_its_creation(order: Order | None, message: Any) -> Decided:
    """Puts a withdrawal off until it knows the order."""
    if isinstance(message, SagaTimedOut) and (order is None or not order.begun):
        return Decision(order or Order(message.order_id, "early_timed_out"))
    return SERVICE["order"].decide(order, message)


def order_forgets_its_tombstone(order: Order | None, message: Any) -> Decided:
    """Withdraws what it does not know, and begins it when it comes after all."""
    if isinstance(message, OrderCreated) and order is not None and not order.begun:
        order = None
    return SERVICE["order"].decide(order, message)


def notification_gives_up_silently(notice: Any, message: Any) -> Decided:
    if isinstance(message, GaveUp):
        return Decision(notice)
    return SERVICE["notification"].decide(notice, message)


def asks_again(service: str) -> Decide:
    """Asks for the call again that was given up, although its attempts are over."""

    def decide(state: Any, message: Any) -> Decided:
        if isinstance(message, GaveUp):
            call: Call = message.call
            return Decision(state, calls=(call,))
        return SERVICE[service].decide(state, message)

    return decide


@dataclass(frozen=True)
class Planted:
    service: str
    decide: Decide
    happenings: tuple[Fact | Command, ...]
    caught_by: str
    acts: int = 0
    redrives: bool = False

    def __str__(self) -> str:
        name = self.decide.__qualname__.partition(".")[0]
        return name if self.service in name else f"{self.service} {name}"


POSTED, PUBLISHED = (posted(ADA),), (published(ADA),)
WITHDRAWN = (published(ADA), timed_out(ADA))
CANCELLED = (posted(ADA), cancelled(ADA))
EXPIRED = (published(ADA, ABOVE_LIMIT), approval_expired(ADA))

BUGS = [
    Planted("inventory", forgets_fences("inventory"), WITHDRAWN, "cancelled_is_undone"),
    Planted("payment", forgets_fences("payment"), WITHDRAWN, "cancelled_is_undone"),
    Planted("fulfillment", forgets_fences("fulfillment"), WITHDRAWN, "cancelled_is_undone"),
    Planted("payment", payment_ignores_a_withdrawal_in_flight, WITHDRAWN, "every_order_ends"),
    Planted("payment", payment_takes_a_lost_answer_for_a_refusal, POSTED, "cancelled_is_undone"),
    Planted("payment", payment_declines_without_voiding, POSTED, "payment_matches_the_provider"),
    Planted("fulfillment", fulfillment_assumes_it_was_cancelled, POSTED, "shipment_matches_the_carrier"),
    Planted("order", order_confirms_what_was_withdrawn, WITHDRAWN, "confirmed"),
    Planted("order", order_forgets_what_overtook_its_creation, PUBLISHED, "every_order_ends"),
    Planted("order", order_forgets_its_tombstone, WITHDRAWN, "every_order_ends|confirmed"),
    Planted("inventory", inventory_sells_silently, POSTED, "waits in vain for inventory"),
    Planted("order", order_says_it_is_cancelled_too_early, CANCELLED, "cancelled_is_undone"),
    Planted("notification", notification_gives_up_silently, POSTED, "customer_is_notified"),
    Planted("payment", asks_again("payment"), POSTED, "asks the same twice"),
    Planted("order", order_withdraws_what_is_confirmed, WITHDRAWN, "confirmed"),
    Planted("payment", payment_declines_what_was_approved, EXPIRED, "cancelled_is_undone"),
    Planted("payment", payment_refunds_again_under_a_new_key, PUBLISHED, "given back 2 times", acts=1),
    Planted("payment", payment_ignores_a_settlement, PUBLISHED, "waits in vain for payment", acts=1),
    Planted("payment", payment_settles_once_more, PUBLISHED, "states the same twice", acts=1, redrives=True),
    Planted("payment", payment_settles_what_is_not_its_own, PUBLISHED, "was confirmed|was sold", acts=1),
]


@pytest.mark.parametrize("planted", BUGS, ids=str)
def test_a_planted_bug_is_caught(planted: Planted) -> None:
    stage = Stage(ADA, stock=PLENTY, redrives=planted.redrives, bug=Bug(planted.service, planted.decide))
    with pytest.raises(Inconsistent, match=planted.caught_by) as caught:
        explore(stage, stage.start(*planted.happenings, acts=planted.acts))
    print(caught.value)


# With a provider that takes on what it does later, and whose events say what becomes of a payment by itself.
decide_there = partial(decide, approval_limits_minor={DEFAULT: LIMIT_MINOR}, provider="stripe")


def refunds_on_pending(payment: Any, message: Any) -> Decided:
    """Publishes that the money is back once the provider has taken the refund on."""
    if isinstance(message, Pending) and payment.status == "refunding":
        message = Undone("refund")
    return decide_there(payment, message)


def ignores_disputes(payment: Any, message: Any) -> Decided:
    if isinstance(message, Stands):
        message = replace(message, disputed=None)
    return decide_there(payment, message)


def ignores_events_of_what_is_over(payment: Any, message: Any) -> Decided:
    if isinstance(message, Notified) and payment.status in ("refunded", "declined"):
        return Decision(payment)
    return decide_there(payment, message)


def waits_for_a_webhook_alone(payment: Any, message: Any) -> Decided:
    """Never asks how what is pending ended: events may be late, and the endpoint away."""
    answer = decide_there(payment, message)
    return replace(answer, calls=()) if isinstance(message, Pending) else answer


@pytest.mark.parametrize(
    ("bug", "events", "caught_by"),
    [
        (refunds_on_pending, 0, "payment_matches_the_provider|cancelled_is_undone"),
        (ignores_disputes, 1, "its charge is disputed, and nobody has published it"),
        (ignores_events_of_what_is_over, 1, "cancelled_is_undone"),
        (waits_for_a_webhook_alone, 0, "every_order_ends"),
    ],
    ids=lambda given: getattr(given, "__name__", ""),
)
def test_a_planted_bug_about_what_comes_late_is_caught(bug: Decide, events: int, caught_by: str) -> None:
    stage = Stage(ADA, stock=PLENTY, brief=True, bug=Bug("payment", bug))
    with pytest.raises(Inconsistent, match=caught_by) as caught:
        explore(stage, stage.start(*POSTED, events=events))
    print(caught.value)


def test_a_planted_bug_is_caught_by_reconciliation_too() -> None:
    stage = Stage(ADA, stock=PLENTY, bug=Bug("payment", forgets_fences("payment")))
    with pytest.raises(Inconsistent, match="party='payment', about='status', expected='declined or refunded"):
        explore(stage, stage.start(*WITHDRAWN), reconciling=True)


def test_overselling_is_caught() -> None:
    stage = Stage(ADA, BOB, stock=ONE_PEAR, brief=True, bug=Bug("inventory", inventory_oversells))
    with pytest.raises(Inconsistent, match=r"stock_adds_up: pear: -1 \+ 2 \+ 0 of 1 stocked"):
        explore(stage, stage.start(posted(ADA), posted(BOB)))


@pytest.mark.parametrize(
    ("bug", "caught_by"),
    [
        (Bug("inventory", inventory_trusts_its_inbox), r"stock_adds_up: apple: 11 \+ -2 \+ 0 of 9 stocked"),
        (Bug("payment", payment_fences_only_once), "cancelled_is_undone|states the same twice"),
    ],
    ids=["inventory", "payment"],
)
def test_a_service_that_trusts_its_inbox_needs_it(bug: Bug, caught_by: str) -> None:
    protected = Stage(ADA, stock=PLENTY, bug=bug)
    assert explore(protected, protected.start(*WITHDRAWN)).ends
    unprotected = Stage(ADA, stock=PLENTY, redrives=True, bug=bug)
    with pytest.raises(Inconsistent, match=caught_by):
        explore(unprotected, unprotected.start(*WITHDRAWN))


def test_an_order_that_is_withdrawn_only_once_it_is_known_is_stuck() -> None:
    """Where its creation never comes: nobody undoes what was done for it."""
    for bug, is_stuck in ((None, False), (order_waits_for_its_creation, True)):
        stage = LossyStage(
            ADA,
            stock=PLENTY,
            service="order",
            kind=OrderCreated,
            tells_again=False,
            brief=True,
            bug=Bug("order", bug) if bug else None,
        )
        found = explore(stage, stage.start(published(ADA)))
        seen = {end.verdict for ends in found.ends for end in ends}
        assert (OVERDUE in seen) is is_stuck


def test_a_redrive_without_what_it_takes_to_answer_is_of_no_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """An order that order_svc does not know is withdrawn, although it was sent everything else once more."""
    verdicts = []
    for needs in (needs_the_beginning, lambda wire_name, service: False):
        monkeypatch.setattr("tests.world.lost.needs_the_beginning", needs)
        stage = LossyStage(
            ADA, stock=PLENTY, service="order", kind=OrderCreated, tells_again=True, brief=True
        )
        found = explore(stage, stage.start(published(ADA)))
        verdicts.append({end.verdict for ends in found.ends for end in ends})
    assert "COMPLETED" in verdicts[0]
    assert "COMPLETED" not in verdicts[1]


def forgets_what_people_did(facts: Collection[SagaFact]) -> Saga:
    return project([fact for fact in facts if fact.name not in ("saga.retry_requested", "saga.settled")])


def never_forgives_lateness(facts: Collection[SagaFact]) -> Saga:
    saga = project(facts)
    late = any(fact.name == "saga.overdue" for fact in facts)
    return replace(saga, state=State.NEEDS_MANUAL) if late else saga


def takes_a_payment_for_the_end(facts: Collection[SagaFact]) -> Saga:
    saga = project(facts)
    return replace(saga, state=State.COMPLETED) if saga.state is State.PENDING_SHIPMENT else saga


@pytest.mark.parametrize(
    ("tracker", "caught_by"),
    [
        (forgets_what_people_did, "NEEDS_MANUAL by the tracker, UNFINISHED by the services' books"),
        (never_forgives_lateness, "but NEEDS_MANUAL had every step been late"),
        (takes_a_payment_for_the_end, "COMPLETED by the tracker, UNFINISHED by the services' books"),
    ],
)
def test_a_bug_of_the_tracker_is_caught(
    tracker: Callable[[Collection[SagaFact]], Saga], caught_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.world.explore.project", tracker)
    stage = Stage(ADA, stock=PLENTY, brief=True)
    with pytest.raises(Inconsistent, match=caught_by):
        explore(stage, stage.start(posted(ADA), acts=1), watching=True)
