"""payment_svc: authorise and capture; or hold for a person; or undo, down the ladder, or fence."""

from dataclasses import replace
from typing import Literal

from events.decision import GaveUp
from payment_svc.decide import (
    Approve,
    AuthorisationDeclined,
    Authorise,
    Authorised,
    Capture,
    Captured,
    CaptureRefused,
    IssueCreditNote,
    Payment,
    Refund,
    Reject,
    Undone,
    UndoRefused,
    Void,
)
from tests.decide.given import (
    ABOVE_LIMIT_MINOR,
    AMOUNT_MINOR,
    CURRENCY,
    CUSTOMER,
    LIMIT_MINOR,
    LINES,
    ORDER,
    PAYMENT_CAPTURED,
    PAYMENT_HELD,
    SERVICE,
    SHIPMENT_CANCELLED,
    SHIPMENT_REJECTED,
    STOCK_RESERVED,
    TOKEN,
    payment_declined,
    payment_refund_failed,
    payment_refunded,
    stock_reserved,
)
from tests.decide.table import Row, every, given, given_up, rows

AUTHORISE = Authorise(order_id=ORDER, amount_minor=AMOUNT_MINOR, currency=CURRENCY, payment_token=TOKEN)
AUTHORISE_HELD = AUTHORISE.model_copy(update={"amount_minor": ABOVE_LIMIT_MINOR})
CAPTURE, VOID = Capture(order_id=ORDER), Void(order_id=ORDER)
REFUND, CREDIT_NOTE = Refund(order_id=ORDER), IssueCreditNote(order_id=ORDER)
APPROVE = Approve(order_id=ORDER, by="grace", note="known customer")
REJECT = Reject(order_id=ORDER, by="grace", note="too much")

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
        replace(HELD, status="authorising", decided_by="grace", decision_note="known customer"),
        AUTHORISE_HELD,
    ),
    given(HELD)
    .when(REJECT)
    .then(
        replace(
            HELD,
            status="declined",
            decided_by="grace",
            decision_note="too much",
            reason="approval_rejected",
        ),
        payment_declined("approval_rejected"),
    ),
    given(None, AUTHORISING, CAPTURING, CAPTURED, DECLINED, FENCED).when(APPROVE, REJECT).nothing(),
    given(VOIDING, REFUNDING, CREDITING, REFUNDED, REFUND_FAILED).when(APPROVE, REJECT).nothing(),
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
    .then(REFUND_FAILED, payment_refund_failed("issue_credit_note: not_possible")),
    # No further down: perhaps it was done, and money must not go back twice.
    given(VOIDING).when(*given_up(VOID)).then(REFUND_FAILED, payment_refund_failed("void: timeout")),
    given(REFUNDING).when(*given_up(REFUND)).then(REFUND_FAILED, payment_refund_failed("refund: timeout")),
    given(CREDITING)
    .when(*given_up(CREDIT_NOTE, "r" * 300))
    .then(REFUND_FAILED, payment_refund_failed(f"issue_credit_note: {'r' * 181}")),
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
    .then(of_its_own("refund_failed"), payment_refund_failed("issue_credit_note: not_possible")),
    given(of_its_own("voiding"))
    .when(*given_up(VOID))
    .then(of_its_own("refund_failed"), payment_refund_failed("void: timeout")),
    given(of_its_own("refunding"))
    .when(*given_up(REFUND))
    .then(of_its_own("refund_failed"), payment_refund_failed("refund: timeout")),
    given(of_its_own("crediting"))
    .when(*given_up(CREDIT_NOTE))
    .then(of_its_own("refund_failed"), payment_refund_failed("issue_credit_note: timeout")),
)

UNHEARD_OF = rows(
    given(None).when(Authorised(), AuthorisationDeclined("x"), Captured(), CaptureRefused("x")).nothing(),
    given(None).when(Undone("void"), UndoRefused(VOID, "x"), GaveUp(VOID, "x", maybe_done=True)).nothing(),
)

TABLE = rows(
    BEGINNING,
    CHARGING,
    APPROVING,
    WITHDRAWING,
    WITHDRAWN_IN_FLIGHT,
    DOWN_THE_LADDER,
    DOWN_THE_LADDER_BY_ITSELF,
    UNHEARD_OF,
)


@every(TABLE)
def test_payment(row: Row) -> None:
    row.check(SERVICE["payment"].decide)
