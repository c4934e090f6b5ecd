"""payment_svc: authorise and capture; or hold for a person; or undo, down the ladder, or fence.

An undo that failed for good is tried again, or was settled, when a person says so.
"""

from dataclasses import replace
from typing import Literal

import pytest

from events.decision import GaveUp
from events.facts.payment import PaymentHeld
from payment_svc.decide import DEFAULT, decide
from payment_svc.payment import (
    Approve,
    AuthorisationDeclined,
    Authorise,
    Authorised,
    Capture,
    Captured,
    CaptureRefused,
    IssueCreditNote,
    Payment,
    Pending,
    Refund,
    Registered,
    Reject,
    Undone,
    UndoRefused,
    Void,
)
from tests.decide.given import (
    ABOVE_LIMIT_MINOR,
    AMOUNT_MINOR,
    APPROVAL_EXPIRED,
    CURRENCY,
    CUSTOMER,
    LIMIT_MINOR,
    LINES,
    ORDER,
    PAYMENT_APPROVED,
    PAYMENT_CAPTURED,
    PAYMENT_HELD,
    PAYMENT_REFUNDED,
    PERSON,
    SERVICE,
    SHIPMENT_CANCELLED,
    SHIPMENT_REJECTED,
    STOCK_RESERVED,
    TOKEN,
    asked_of_others,
    payment_declined,
    payment_refund_failed,
    payment_refunded,
    retry_requested,
    settled,
    stock_reserved,
)
from tests.decide.table import Row, every, given, given_up, rows

AUTHORISE = Authorise(order_id=ORDER, amount_minor=AMOUNT_MINOR, currency=CURRENCY, payment_token=TOKEN)
AUTHORISE_HELD = AUTHORISE.model_copy(update={"amount_minor": ABOVE_LIMIT_MINOR})
CAPTURE, VOID = Capture(order_id=ORDER), Void(order_id=ORDER)
REFUND, CREDIT_NOTE = Refund(order_id=ORDER), IssueCreditNote(order_id=ORDER)
VOID_2, REFUND_2 = Void(order_id=ORDER, round=2), Refund(order_id=ORDER, round=2)
CREDIT_NOTE_2 = IssueCreditNote(order_id=ORDER, round=2)
APPROVE = Approve(order_id=ORDER, by=PERSON, note="known customer")
REJECT = Reject(order_id=ORDER, by=PERSON, note="too much")

AUTHORISING = Payment(
    ORDER,
    "authorising",
    amount_minor=AMOUNT_MINOR,
    currency=CURRENCY,
    customer=CUSTOMER,
    payment_token=TOKEN,
    lines=LINES,
)
CAPTURING = replace(AUTHORISING, status="capturing")
CAPTURED = replace(AUTHORISING, status="captured")
HELD = replace(AUTHORISING, status="held", amount_minor=ABOVE_LIMIT_MINOR)
DECLINED = replace(AUTHORISING, status="declined", reason="card_declined")
FENCED = Payment(ORDER, "fenced", withdrawn=True, reason="timed_out")


def withdrawn(was: Payment, reason: str = "timed_out") -> Payment:
    return replace(was, withdrawn=True, reason=reason)


REFUNDING = withdrawn(replace(CAPTURED, status="refunding"))
CREDITING = replace(REFUNDING, status="crediting")
REFUNDED = replace(REFUNDING, status="refunded")
REFUND_FAILED = replace(REFUNDING, status="refund_failed")
VOID_LOST = replace(REFUND_FAILED, retry_with="void")
REFUND_LOST = replace(REFUND_FAILED, retry_with="refund")
CREDIT_NOTE_LOST = replace(REFUND_FAILED, retry_with="issue_credit_note")
ALL_REFUSED = replace(REFUND_FAILED, retry_with="void", round=2)
SETTLED = replace(REFUNDED, settled_by=PERSON)
VOIDING = withdrawn(replace(AUTHORISING, status="voiding"))
CAPTURE_REFUSED = replace(AUTHORISING, status="voiding", reason="expired")


def of_its_own(status: Literal["voiding", "refunding", "crediting", "declined", "refund_failed"]) -> Payment:
    return replace(AUTHORISING, status=status, reason="provider_unavailable")


BEGINNING = rows(
    given(None).when(STOCK_RESERVED).then(AUTHORISING, AUTHORISE),
    given(None).when(stock_reserved(ABOVE_LIMIT_MINOR)).then(HELD, PAYMENT_HELD),
    given(None)
    .when(stock_reserved(LIMIT_MINOR))
    .then(
        replace(AUTHORISING, amount_minor=LIMIT_MINOR),
        AUTHORISE.model_copy(update={"amount_minor": LIMIT_MINOR}),
    ),
    given(HELD, AUTHORISING, CAPTURING, CAPTURED, DECLINED).when(STOCK_RESERVED).nothing(),
    given(VOIDING, REFUNDING, CREDITING, REFUNDED, REFUND_FAILED).when(STOCK_RESERVED).nothing(),
    # The undo overtook the reservation: a late reservation must not charge anything.
    given(FENCED).when(STOCK_RESERVED).nothing(),
)

CHARGING = rows(
    given(AUTHORISING).when(Authorised()).then(CAPTURING, CAPTURE),
    given(CAPTURING).when(Captured()).then(CAPTURED, PAYMENT_CAPTURED),
    given(AUTHORISING).when(AuthorisationDeclined("card_declined")).then(DECLINED, payment_declined()),
    given(AUTHORISING)
    .when(GaveUp(AUTHORISE, "http_500", maybe_done=False))
    .then(of_its_own("declined"), payment_declined("provider_unavailable")),
    # Perhaps it was authorised or captured: undone to be sure, and only then declined.
    given(AUTHORISING).when(GaveUp(AUTHORISE, "timeout", maybe_done=True)).then(of_its_own("voiding"), VOID),
    given(CAPTURING).when(*given_up(CAPTURE)).then(of_its_own("voiding"), VOID),
    given(CAPTURING).when(CaptureRefused("expired")).then(CAPTURE_REFUSED, VOID),
)

APPROVING = rows(
    given(HELD)
    .when(APPROVE)
    .then(
        replace(HELD, status="authorising", decided_by=PERSON, decision_note="known customer"),
        PAYMENT_APPROVED,
        AUTHORISE_HELD,
    ),
    given(HELD)
    .when(REJECT)
    .then(
        replace(
            HELD,
            status="declined",
            decided_by=PERSON,
            decision_note="too much",
            reason="approval_rejected",
        ),
        payment_declined("approval_rejected", by=PERSON, note="too much"),
    ),
    given(HELD)
    .when(APPROVAL_EXPIRED)
    .then(replace(HELD, status="declined", reason="approval_expired"), payment_declined("approval_expired")),
    # Decided meanwhile, by a person or by the clock: the first one counts.
    given(None, AUTHORISING, CAPTURING, CAPTURED, DECLINED, FENCED)
    .when(APPROVE, REJECT, APPROVAL_EXPIRED)
    .nothing(),
    given(VOIDING, REFUNDING, CREDITING, REFUNDED, REFUND_FAILED)
    .when(APPROVE, REJECT, APPROVAL_EXPIRED)
    .nothing(),
    given(of_its_own("voiding"), of_its_own("refunding"), of_its_own("crediting"))
    .when(APPROVAL_EXPIRED)
    .nothing(),
    given(of_its_own("refund_failed")).when(APPROVAL_EXPIRED).nothing(),
)

WITHDRAWING = rows(
    given(None).when(SHIPMENT_CANCELLED).then(FENCED, payment_refunded("nothing_charged")),
    given(None)
    .when(SHIPMENT_REJECTED)
    .then(
        replace(FENCED, reason="address_not_served"),
        payment_refunded("nothing_charged", "address_not_served"),
    ),
    given(HELD)
    .when(SHIPMENT_CANCELLED)
    .then(withdrawn(replace(HELD, status="fenced")), payment_refunded("nothing_charged")),
    given(HELD)
    .when(SHIPMENT_REJECTED)
    .then(
        withdrawn(replace(HELD, status="fenced"), "address_not_served"),
        payment_refunded("nothing_charged", "address_not_served"),
    ),
    given(CAPTURED).when(SHIPMENT_CANCELLED).then(REFUNDING, REFUND),
    given(CAPTURED).when(SHIPMENT_REJECTED).then(replace(REFUNDING, reason="address_not_served"), REFUND),
    given(DECLINED, VOIDING, REFUNDING, CREDITING, REFUNDED, REFUND_FAILED, FENCED)
    .when(SHIPMENT_CANCELLED, SHIPMENT_REJECTED)
    .nothing(),
    # Its own undo is under way: when it ends, `declined` starts the chain.
    given(
        of_its_own("voiding"), of_its_own("refunding"), of_its_own("crediting"), of_its_own("refund_failed")
    )
    .when(SHIPMENT_CANCELLED, SHIPMENT_REJECTED)
    .nothing(),
)

# A call in flight is undone when its outcome is known.
WITHDRAWN_IN_FLIGHT = rows(
    given(AUTHORISING).when(SHIPMENT_CANCELLED).then(withdrawn(AUTHORISING)),
    given(AUTHORISING).when(SHIPMENT_REJECTED).then(withdrawn(AUTHORISING, "address_not_served")),
    given(CAPTURING).when(SHIPMENT_CANCELLED).then(withdrawn(CAPTURING)),
    given(CAPTURING).when(SHIPMENT_REJECTED).then(withdrawn(CAPTURING, "address_not_served")),
    given(withdrawn(AUTHORISING)).when(Authorised()).then(VOIDING, VOID),
    given(withdrawn(AUTHORISING))
    .when(AuthorisationDeclined("card_declined"), GaveUp(AUTHORISE, "http_500", maybe_done=False))
    .then(withdrawn(replace(AUTHORISING, status="refunded")), payment_refunded("nothing_charged")),
    given(withdrawn(AUTHORISING)).when(GaveUp(AUTHORISE, "timeout", maybe_done=True)).then(VOIDING, VOID),
    given(withdrawn(CAPTURING)).when(Captured()).then(REFUNDING, REFUND),
    given(withdrawn(CAPTURING)).when(CaptureRefused("expired"), *given_up(CAPTURE)).then(VOIDING, VOID),
    given(VOIDING).when(Undone("void")).then(replace(VOIDING, status="refunded"), payment_refunded("void")),
)

DOWN_THE_LADDER = rows(
    given(VOIDING).when(UndoRefused(VOID, "captured")).then(REFUNDING, REFUND),
    given(REFUNDING).when(Undone("refund")).then(REFUNDED, payment_refunded("refund")),
    given(REFUNDING).when(UndoRefused(REFUND, "card_closed")).then(CREDITING, CREDIT_NOTE),
    given(CREDITING).when(Undone("credit_note")).then(REFUNDED, payment_refunded("credit_note")),
    given(CREDITING)
    .when(UndoRefused(CREDIT_NOTE, "not_possible"))
    .then(ALL_REFUSED, payment_refund_failed("issue_credit_note: not_possible")),
    # No further down: perhaps it was done, and money must not go back twice.
    given(VOIDING).when(*given_up(VOID)).then(VOID_LOST, payment_refund_failed("void: timeout")),
    given(REFUNDING).when(*given_up(REFUND)).then(REFUND_LOST, payment_refund_failed("refund: timeout")),
    given(CREDITING)
    .when(*given_up(CREDIT_NOTE, "r" * 300))
    .then(CREDIT_NOTE_LOST, payment_refund_failed(f"issue_credit_note: {'r' * 181}")),
)

# An undo that payment began by itself goes down the same ladder, and ends in `declined`.
DOWN_THE_LADDER_BY_ITSELF = rows(
    given(of_its_own("voiding"))
    .when(Undone("void"))
    .then(of_its_own("declined"), payment_declined("provider_unavailable")),
    given(CAPTURE_REFUSED)
    .when(Undone("void"))
    .then(replace(CAPTURE_REFUSED, status="declined"), payment_declined("expired")),
    given(of_its_own("voiding")).when(UndoRefused(VOID, "captured")).then(of_its_own("refunding"), REFUND),
    given(of_its_own("refunding"))
    .when(Undone("refund"))
    .then(of_its_own("declined"), payment_declined("provider_unavailable")),
    given(of_its_own("refunding"))
    .when(UndoRefused(REFUND, "card_closed"))
    .then(of_its_own("crediting"), CREDIT_NOTE),
    given(of_its_own("crediting"))
    .when(Undone("credit_note"))
    .then(of_its_own("declined"), payment_declined("provider_unavailable")),
    given(of_its_own("crediting"))
    .when(UndoRefused(CREDIT_NOTE, "not_possible"))
    .then(
        replace(of_its_own("refund_failed"), round=2),
        payment_refund_failed("issue_credit_note: not_possible"),
    ),
    given(of_its_own("voiding"))
    .when(*given_up(VOID))
    .then(of_its_own("refund_failed"), payment_refund_failed("void: timeout")),
    given(of_its_own("refunding"))
    .when(*given_up(REFUND))
    .then(
        replace(of_its_own("refund_failed"), retry_with="refund"), payment_refund_failed("refund: timeout")
    ),
    given(of_its_own("crediting"))
    .when(*given_up(CREDIT_NOTE))
    .then(
        replace(of_its_own("refund_failed"), retry_with="issue_credit_note"),
        payment_refund_failed("issue_credit_note: timeout"),
    ),
)

RETRY, SETTLE = retry_requested("payment"), settled("payment")
SETTLED_BY_HAND = payment_refunded("person", settled_by=PERSON)


def in_round(number: int, was: Payment) -> Payment:
    return replace(was, round=number)


TRYING_AGAIN = rows(
    # Given up on, and perhaps done: the very same call, under the key of its first time.
    given(VOID_LOST).when(RETRY).then(replace(REFUNDING, status="voiding"), VOID),
    given(REFUND_LOST).when(RETRY).then(replace(REFUNDING, retry_with="refund"), REFUND),
    given(CREDIT_NOTE_LOST).when(RETRY).then(replace(CREDITING, retry_with="issue_credit_note"), CREDIT_NOTE),
    # Refused, every rung of it: the ladder from its top, under new keys.
    given(ALL_REFUSED).when(RETRY).then(in_round(2, replace(REFUNDING, status="voiding")), VOID_2),
    given(in_round(2, VOIDING)).when(UndoRefused(VOID_2, "captured")).then(in_round(2, REFUNDING), REFUND_2),
    given(in_round(2, REFUNDING)).when(Undone("refund")).then(in_round(2, REFUNDED), PAYMENT_REFUNDED),
    given(in_round(2, REFUNDING))
    .when(UndoRefused(REFUND_2, "card_closed"))
    .then(in_round(2, CREDITING), CREDIT_NOTE_2),
    given(in_round(2, CREDITING))
    .when(UndoRefused(CREDIT_NOTE_2, "not_possible"))
    .then(in_round(3, REFUND_FAILED), payment_refund_failed("issue_credit_note: not_possible")),
    # Given up on in the second round: the same again, still in the second round.
    given(in_round(2, REFUNDING))
    .when(*given_up(REFUND_2))
    .then(in_round(2, REFUND_LOST), payment_refund_failed("refund: timeout")),
    given(in_round(2, REFUND_LOST))
    .when(RETRY)
    .then(in_round(2, replace(REFUNDING, retry_with="refund")), REFUND_2),
    # An undo of its own ends in `declined`, however often it is tried.
    given(replace(of_its_own("refund_failed"), retry_with="refund"))
    .when(RETRY)
    .then(replace(of_its_own("refunding"), retry_with="refund"), REFUND),
    given(None, HELD, AUTHORISING, CAPTURING, CAPTURED, DECLINED, FENCED).when(RETRY, SETTLE).nothing(),
    given(VOIDING, REFUNDING, CREDITING, REFUNDED, SETTLED).when(RETRY, SETTLE).nothing(),
    given(None, HELD, REFUNDING, REFUND_LOST, ALL_REFUSED).when(*asked_of_others("payment")).nothing(),
)

SETTLING = rows(
    given(VOID_LOST).when(SETTLE).then(SETTLED, SETTLED_BY_HAND),
    given(REFUND_LOST).when(SETTLE).then(replace(SETTLED, retry_with="refund"), SETTLED_BY_HAND),
    given(ALL_REFUSED).when(SETTLE).then(in_round(2, SETTLED), SETTLED_BY_HAND),
    # Also where payment was undoing by itself, and nobody had withdrawn the order.
    given(of_its_own("refund_failed"))
    .when(SETTLE)
    .then(
        replace(of_its_own("refund_failed"), status="refunded", settled_by=PERSON),
        payment_refunded("person", "provider_unavailable", PERSON),
    ),
    given(replace(of_its_own("refund_failed"), status="refunded", settled_by=PERSON))
    .when(SHIPMENT_CANCELLED, APPROVAL_EXPIRED)
    .nothing(),
)

OUTCOMES = (
    Registered("pi_1"),
    Pending("x"),
    Authorised(),
    AuthorisationDeclined("x"),
    Captured(),
    CaptureRefused("x"),
    Undone("refund"),
    UndoRefused(CREDIT_NOTE, "x"),
    GaveUp(REFUND, "x", maybe_done=True),
)

# Nothing was asked, or it is all over: no outcome changes anything any more.
TOO_LATE = rows(
    given(None, HELD, CAPTURED, DECLINED, REFUNDED, REFUND_LOST, ALL_REFUSED, SETTLED, FENCED)
    .when(*OUTCOMES)
    .nothing(),
)

TABLE = rows(
    BEGINNING,
    CHARGING,
    APPROVING,
    WITHDRAWING,
    WITHDRAWN_IN_FLIGHT,
    DOWN_THE_LADDER,
    DOWN_THE_LADDER_BY_ITSELF,
    TRYING_AGAIN,
    SETTLING,
    TOO_LATE,
)


@every(TABLE)
def test_payment(row: Row) -> None:
    row.check(SERVICE["payment"].decide)


@pytest.mark.parametrize(
    ("currency", "limit_minor"), [("JPY", 1_500_000), ("KWD", 3_000), ("EUR", 700), ("CLF", 700)]
)
def test_each_currency_has_a_limit_of_its_own_or_that_of_the_others(currency: str, limit_minor: int) -> None:
    limits_minor = {DEFAULT: 700, "JPY": 1_500_000, "KWD": 3_000}
    for amount_minor, status in ((limit_minor, "authorising"), (limit_minor + 1, "held")):
        reserved = stock_reserved(amount_minor).model_copy(update={"currency": currency})
        decision = decide(None, reserved, approval_limits_minor=limits_minor)
        assert decision.state is not None
        assert decision.state.status == status
        assert [fact.limit_minor for fact in decision.facts if isinstance(fact, PaymentHeld)] == (
            [limit_minor] if status == "held" else []
        )
