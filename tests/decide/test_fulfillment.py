"""fulfillment_svc: a shipment is booked, then dispatched; or cancelled, or fenced before it was booked.

What failed for good is tried again, or was settled, when a person says so.
"""

from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from events.decision import GaveUp
from fulfillment_svc.decide import decide
from fulfillment_svc.shipment import (
    EASYPOST,
    Booked,
    BookingRefused,
    BookShipment,
    CancelRefused,
    CancelShipment,
    Dispatched,
    DispatchRefused,
    DispatchShipment,
    FollowRefund,
    Prepared,
    PrepareShipment,
    RefundEnded,
    RefundPending,
    RefundRejected,
    Shipment,
    Unbooked,
)
from tests.decide.given import (
    CUSTOMER,
    DELIVER_ON,
    LINES,
    ORDER,
    ORDER_CONFIRMED,
    ORDER_WITHDRAWN,
    PAYMENT_CAPTURED,
    PERSON,
    SHIPMENT,
    SHIPMENT_CANCELLED,
    SHIPMENT_DISPATCHED,
    SHIPMENT_SCHEDULED,
    asked_of_others,
    label_refund_rejected,
    retry_requested,
    settled,
    shipment_cancel_failed,
    shipment_cancelled,
    shipment_dispatch_failed,
    shipment_dispatched,
    shipment_rejected,
)
from tests.decide.table import Row, every, given, given_up, rows

BOOK = BookShipment(order_id=ORDER, customer=CUSTOMER, lines=LINES)
CANCEL = CancelShipment(order_id=ORDER)
DISPATCH = DispatchShipment(order_id=ORDER)
CANCEL_2, DISPATCH_2 = CancelShipment(order_id=ORDER, round=2), DispatchShipment(order_id=ORDER, round=2)
BOOKED = Booked(SHIPMENT, DELIVER_ON)

BOOKING = Shipment(ORDER, "booking", customer=CUSTOMER, lines=LINES)
SCHEDULED = replace(BOOKING, status="scheduled", shipment_id=SHIPMENT, deliver_on=DELIVER_ON)
DISPATCHING = replace(SCHEDULED, status="dispatching")
DISPATCHED = replace(SCHEDULED, status="dispatched")
DISPATCH_FAILED = replace(SCHEDULED, status="dispatch_failed")
REFUSED = replace(BOOKING, status="rejected", reason="address_not_served")
UNCERTAIN = replace(BOOKING, status="cancelling", reason="carrier_unavailable")
GIVEN_UP = replace(UNCERTAIN, status="rejected")
FENCED = Shipment(ORDER, "fenced", withdrawn=True, reason="timed_out")


def withdrawn(was: Shipment) -> Shipment:
    return replace(was, withdrawn=True, reason="timed_out")


def in_round(number: int, was: Shipment) -> Shipment:
    return replace(was, round=number)


CANCELLING = replace(withdrawn(SCHEDULED), status="cancelling")
CANCELLED = replace(CANCELLING, status="cancelled")
CANCEL_FAILED = replace(CANCELLING, status="cancel_failed")

BOOKING_IT = rows(
    given(None).when(PAYMENT_CAPTURED).then(BOOKING, BOOK),
    given(BOOKING, SCHEDULED, DISPATCHING, DISPATCHED, DISPATCH_FAILED).when(PAYMENT_CAPTURED).nothing(),
    given(REFUSED, CANCELLING, CANCELLED, CANCEL_FAILED).when(PAYMENT_CAPTURED).nothing(),
    # The withdrawal overtook the payment: a late payment must not book anything.
    given(FENCED).when(PAYMENT_CAPTURED).nothing(),
    given(BOOKING).when(BOOKED).then(SCHEDULED, SHIPMENT_SCHEDULED),
    given(BOOKING)
    .when(BookingRefused("address_not_served"))
    .then(REFUSED, shipment_rejected("address_not_served")),
    given(BOOKING)
    .when(GaveUp(BOOK, "http_500", maybe_done=False))
    .then(GIVEN_UP, shipment_rejected("carrier_unavailable")),
    # Perhaps it was booked: cancelled to be sure, and only then rejected.
    given(BOOKING).when(GaveUp(BOOK, "timeout", maybe_done=True)).then(UNCERTAIN, CANCEL),
    given(UNCERTAIN).when(Unbooked()).then(GIVEN_UP, shipment_rejected("carrier_unavailable")),
)

WITHDRAWING = rows(
    given(None).when(ORDER_WITHDRAWN).then(FENCED, SHIPMENT_CANCELLED),
    given(SCHEDULED).when(ORDER_WITHDRAWN).then(CANCELLING, CANCEL),
    given(CANCELLING).when(Unbooked()).then(CANCELLED, SHIPMENT_CANCELLED),
    # A booking in flight is undone when its outcome is known.
    given(BOOKING).when(ORDER_WITHDRAWN).then(withdrawn(BOOKING)),
    given(withdrawn(BOOKING)).when(BOOKED).then(CANCELLING, CANCEL),
    given(withdrawn(BOOKING))
    .when(BookingRefused("address_not_served"), GaveUp(BOOK, "http_500", maybe_done=False))
    .then(replace(withdrawn(BOOKING), status="cancelled"), shipment_cancelled("timed_out")),
    given(withdrawn(BOOKING))
    .when(GaveUp(BOOK, "timeout", maybe_done=True))
    .then(replace(withdrawn(BOOKING), status="cancelling"), CANCEL),
    given(withdrawn(BOOKING)).when(ORDER_WITHDRAWN).nothing(),
    # Its own undo is under way or done: the chain runs already.
    given(UNCERTAIN, REFUSED, GIVEN_UP).when(ORDER_WITHDRAWN).nothing(),
    given(CANCELLING, CANCELLED, CANCEL_FAILED, FENCED).when(ORDER_WITHDRAWN).nothing(),
    given(DISPATCHING, DISPATCHED, DISPATCH_FAILED).when(ORDER_WITHDRAWN).violates_causality(),
)

UNCERTAIN_FAILED = replace(UNCERTAIN, status="cancel_failed")

FAILING_TO_CANCEL = rows(
    given(CANCELLING)
    .when(CancelRefused("already_packed"))
    .then(in_round(2, CANCEL_FAILED), shipment_cancel_failed("already_packed")),
    given(CANCELLING).when(*given_up(CANCEL)).then(CANCEL_FAILED, shipment_cancel_failed("timeout")),
    given(UNCERTAIN)
    .when(CancelRefused("r" * 300))
    .then(in_round(2, UNCERTAIN_FAILED), shipment_cancel_failed("r" * 200)),
    given(UNCERTAIN).when(*given_up(CANCEL)).then(UNCERTAIN_FAILED, shipment_cancel_failed("timeout")),
    given(UNCERTAIN_FAILED).when(ORDER_WITHDRAWN).nothing(),
)

DISPATCHING_IT = rows(
    given(SCHEDULED).when(ORDER_CONFIRMED).then(DISPATCHING, DISPATCH),
    given(DISPATCHING, DISPATCHED, DISPATCH_FAILED).when(ORDER_CONFIRMED).nothing(),
    given(None, BOOKING, REFUSED, CANCELLING, CANCELLED, CANCEL_FAILED, FENCED)
    .when(ORDER_CONFIRMED)
    .violates_causality(),
    given(DISPATCHING).when(Dispatched()).then(DISPATCHED, SHIPMENT_DISPATCHED),
    given(DISPATCHING)
    .when(DispatchRefused("damaged"))
    .then(in_round(2, DISPATCH_FAILED), shipment_dispatch_failed("damaged")),
    given(DISPATCHING).when(*given_up(DISPATCH)).then(DISPATCH_FAILED, shipment_dispatch_failed("timeout")),
)

RETRY, SETTLE = retry_requested("fulfillment"), settled("fulfillment")

TRYING_AGAIN = rows(
    # Given up on, and perhaps done: the very same call, under the key of its first time.
    given(CANCEL_FAILED).when(RETRY).then(CANCELLING, CANCEL),
    given(UNCERTAIN_FAILED).when(RETRY).then(UNCERTAIN, CANCEL),
    given(DISPATCH_FAILED).when(RETRY).then(DISPATCHING, DISPATCH),
    # Refused, and that is certain: under a new key.
    given(in_round(2, CANCEL_FAILED)).when(RETRY).then(in_round(2, CANCELLING), CANCEL_2),
    given(in_round(2, DISPATCH_FAILED)).when(RETRY).then(in_round(2, DISPATCHING), DISPATCH_2),
    given(in_round(2, CANCELLING)).when(Unbooked()).then(in_round(2, CANCELLED), SHIPMENT_CANCELLED),
    given(in_round(2, DISPATCHING)).when(Dispatched()).then(in_round(2, DISPATCHED), SHIPMENT_DISPATCHED),
    given(in_round(2, CANCELLING))
    .when(CancelRefused("already_packed"))
    .then(in_round(3, CANCEL_FAILED), shipment_cancel_failed("already_packed")),
    given(in_round(2, CANCELLING))
    .when(*given_up(CANCEL_2))
    .then(in_round(2, CANCEL_FAILED), shipment_cancel_failed("timeout")),
    given(in_round(2, DISPATCHING))
    .when(*given_up(DISPATCH_2))
    .then(in_round(2, DISPATCH_FAILED), shipment_dispatch_failed("timeout")),
    given(None, BOOKING, SCHEDULED, REFUSED, CANCELLING, CANCELLED).when(RETRY, SETTLE).nothing(),
    given(DISPATCHING, DISPATCHED, FENCED).when(RETRY, SETTLE).nothing(),
    given(None, SCHEDULED, CANCEL_FAILED, DISPATCH_FAILED).when(*asked_of_others("fulfillment")).nothing(),
)

SETTLED_CANCEL = replace(CANCELLED, settled_by=PERSON)
SETTLED_DISPATCH = replace(DISPATCHED, settled_by=PERSON)

SETTLING = rows(
    given(CANCEL_FAILED).when(SETTLE).then(SETTLED_CANCEL, shipment_cancelled(settled_by=PERSON)),
    # Also where fulfilment was cancelling by itself, and nobody had withdrawn the order.
    given(UNCERTAIN_FAILED)
    .when(SETTLE)
    .then(
        replace(UNCERTAIN, status="cancelled", settled_by=PERSON),
        shipment_cancelled("carrier_unavailable", PERSON),
    ),
    given(replace(UNCERTAIN, status="cancelled", settled_by=PERSON)).when(ORDER_WITHDRAWN).nothing(),
    given(DISPATCH_FAILED).when(SETTLE).then(SETTLED_DISPATCH, shipment_dispatched(PERSON)),
    given(SETTLED_CANCEL, SETTLED_DISPATCH).when(RETRY, SETTLE).nothing(),
    given(SETTLED_CANCEL).when(PAYMENT_CAPTURED, ORDER_WITHDRAWN).nothing(),
    given(SETTLED_DISPATCH).when(PAYMENT_CAPTURED, ORDER_CONFIRMED).nothing(),
)

# With a carrier that gives ids, and gives back later what a label cost.
UNTIL = datetime(2026, 12, 1, tzinfo=UTC)
THERE: dict[str, Any] = {"carrier": EASYPOST, "carrier_shipment": SHIPMENT}
PREPARE = PrepareShipment(order_id=ORDER, carrier=EASYPOST, customer=CUSTOMER, lines=LINES)
BOOK_THERE, CANCEL_THERE = BOOK.model_copy(update=THERE), CANCEL.model_copy(update=THERE)
CANCEL_THERE_2, DISPATCH_THERE = CANCEL_2.model_copy(update=THERE), DISPATCH.model_copy(update=THERE)
FOLLOW = FollowRefund(order_id=ORDER, until=UNTIL, **THERE)
FOLLOW_2 = FOLLOW.model_copy(update={"round": 2})
PREPARING = replace(BOOKING, carrier=EASYPOST)


def there(was: Shipment, *, pending: bool = False) -> Shipment:
    return replace(was, carrier=EASYPOST, carrier_shipment=SHIPMENT, refund_pending=pending)


BOOKING_THERE, SCHEDULED_THERE = there(BOOKING), there(SCHEDULED)
LET_GO, BACK = there(CANCELLED, pending=True), there(CANCELLED)
GIVEN_UP_LET_GO = there(GIVEN_UP, pending=True)


def reversed_(was: Shipment, number: int = 2) -> Shipment:
    return replace(in_round(number, was), reversed=True)


LATE_FAILED = reversed_(there(CANCEL_FAILED))
PENDING = RefundPending(UNTIL)

PREPARING_IT = rows(
    given(PREPARING).when(Prepared(SHIPMENT)).then(BOOKING_THERE, BOOK_THERE),
    given(PREPARING)
    .when(BookingRefused("no_rates"))
    .then(replace(PREPARING, status="rejected", reason="no_rates"), shipment_rejected("no_rates")),
    # Whoever never learned its id cannot have bought a label for it.
    given(PREPARING)
    .when(*given_up(PREPARE))
    .then(replace(GIVEN_UP, carrier=EASYPOST), shipment_rejected("carrier_unavailable")),
    given(withdrawn(PREPARING))
    .when(Prepared(SHIPMENT))
    .then(replace(withdrawn(BOOKING_THERE), status="cancelled"), SHIPMENT_CANCELLED),
    given(withdrawn(PREPARING))
    .when(*given_up(PREPARE))
    .then(replace(withdrawn(PREPARING), status="cancelled"), SHIPMENT_CANCELLED),
    given(BOOKING_THERE).when(BOOKED).then(SCHEDULED_THERE, SHIPMENT_SCHEDULED),
    given(BOOKING_THERE)
    .when(GaveUp(BOOK_THERE, "timeout", maybe_done=True))
    .then(there(UNCERTAIN), CANCEL_THERE),
    given(SCHEDULED_THERE).when(ORDER_CONFIRMED).then(there(DISPATCHING), DISPATCH_THERE),
    given(SCHEDULED_THERE).when(ORDER_WITHDRAWN).then(there(CANCELLING), CANCEL_THERE),
)

WAITING_FOR_A_REFUND = rows(
    # The goods stay here, so the order goes on; the label's money is between us and the carrier.
    given(there(CANCELLING)).when(PENDING).then(LET_GO, SHIPMENT_CANCELLED, FOLLOW),
    given(there(UNCERTAIN))
    .when(PENDING)
    .then(GIVEN_UP_LET_GO, shipment_rejected("carrier_unavailable"), FOLLOW),
    given(LET_GO).when(RefundEnded()).then(BACK),
    given(GIVEN_UP_LET_GO).when(RefundEnded()).then(there(GIVEN_UP)),
    given(LET_GO).when(RefundRejected("used")).then(LATE_FAILED, label_refund_rejected("used")),
    given(LET_GO).when(*given_up(FOLLOW)).then(LATE_FAILED, label_refund_rejected("follow_refund: timeout")),
    given(GIVEN_UP_LET_GO)
    .when(RefundRejected("u" * 300))
    .then(reversed_(there(replace(GIVEN_UP, status="cancel_failed"))), label_refund_rejected("u" * 200)),
    given(LET_GO, GIVEN_UP_LET_GO).when(PAYMENT_CAPTURED, ORDER_WITHDRAWN).nothing(),
    # A person has it tried again, or has seen to it.
    given(LATE_FAILED)
    .when(retry_requested("fulfillment"))
    .then(reversed_(there(CANCELLING)), CANCEL_THERE_2),
    given(reversed_(there(CANCELLING))).when(PENDING).then(reversed_(LET_GO), SHIPMENT_CANCELLED, FOLLOW_2),
    given(reversed_(LET_GO))
    .when(RefundRejected("used"))
    .then(reversed_(there(CANCEL_FAILED), 3), label_refund_rejected("used")),
    given(LATE_FAILED)
    .when(settled("fulfillment"))
    .then(reversed_(replace(BACK, settled_by=PERSON)), shipment_cancelled(settled_by=PERSON)),
    given(LET_GO).when(retry_requested("fulfillment"), settled("fulfillment")).nothing(),
)

OUTCOMES = (
    BOOKED,
    BookingRefused("x"),
    Prepared("x"),
    Unbooked(),
    CancelRefused("x"),
    Dispatched(),
    DispatchRefused("x"),
    GaveUp(BOOK, "timeout", maybe_done=True),
)
ABOUT_A_REFUND = (PENDING, RefundEnded(), RefundRejected("x"), GaveUp(FOLLOW, "timeout", maybe_done=True))

# Nothing was asked, or it is all over: no outcome changes anything any more.
TOO_LATE = rows(
    given(None, SCHEDULED, REFUSED, FENCED).when(*OUTCOMES, *ABOUT_A_REFUND).nothing(),
    given(CANCELLED, CANCEL_FAILED, SETTLED_CANCEL).when(*OUTCOMES, *ABOUT_A_REFUND).nothing(),
    given(DISPATCHED, DISPATCH_FAILED, SETTLED_DISPATCH).when(*OUTCOMES, *ABOUT_A_REFUND).nothing(),
    given(LET_GO).when(*OUTCOMES, PENDING).nothing(),
    given(CANCELLING, BOOKING, DISPATCHING).when(*ABOUT_A_REFUND[1:]).nothing(),
)

TABLE = rows(
    BOOKING_IT,
    WITHDRAWING,
    FAILING_TO_CANCEL,
    DISPATCHING_IT,
    TRYING_AGAIN,
    SETTLING,
    PREPARING_IT,
    WAITING_FOR_A_REFUND,
    TOO_LATE,
)


@every(TABLE)
def test_fulfillment(row: Row) -> None:
    row.check(decide)


# The same where shipments are begun with such a carrier.
BEGUN_THERE = rows(
    given(None).when(PAYMENT_CAPTURED).then(PREPARING, PREPARE),
    given(FENCED, SCHEDULED).when(PAYMENT_CAPTURED).nothing(),
)


@every(BEGUN_THERE)
def test_fulfillment_begun_there(row: Row) -> None:
    row.check(partial(decide, carrier=EASYPOST))


def test_a_shipment_goes_on_with_the_carrier_it_was_begun_with() -> None:
    gone_on = decide(SCHEDULED, ORDER_CONFIRMED, carrier=EASYPOST)
    assert (gone_on.state, gone_on.calls) == (DISPATCHING, (DISPATCH,))
    there_still = decide(SCHEDULED_THERE, ORDER_WITHDRAWN)
    assert there_still.calls == (CANCEL_THERE,)
