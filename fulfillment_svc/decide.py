"""What fulfilment makes of each fact and outcome.

    payment.captured   -> book -> shipment_scheduled | shipment_rejected
                          (before that prepared, with a carrier that gives it an id of its own)
    order.withdrawn    -> cancel -> shipment_cancelled, else shipment_cancel_failed
                          (or a fence, when nothing was booked yet)
    what a label cost is yet to come back
                       -> cancelled all the same, for the goods do not move; and what becomes of that money
                          in the end: label_refund_rejected, if it never comes
    order.confirmed    -> dispatch, the irreversible step -> shipment_dispatched,
                          else shipment_dispatch_failed
    saga.retry_requested,
    saga.settled       -> what failed is tried again; or a person saw to it, and it is as good as done

A booking in flight when the order is withdrawn is cancelled once its outcome is known.
"""

from dataclasses import replace
from datetime import datetime
from typing import assert_never
from uuid import UUID

from events.decision import CausalityViolated, Decision, GaveUp
from events.facts.fulfillment import (
    LabelRefundRejected,
    ShipmentCancelFailed,
    ShipmentCancelled,
    ShipmentDispatched,
    ShipmentDispatchFailed,
    ShipmentRejected,
    ShipmentScheduled,
)
from events.facts.order import OrderConfirmed, OrderWithdrawn
from events.facts.payment import PaymentCaptured
from events.facts.saga import RetryRequested, Settled
from fulfillment_svc.shipment import (
    IN_FLIGHT,
    PREPARES,
    SANDBOX,
    Booked,
    BookingRefused,
    BookShipment,
    Calls,
    CancelRefused,
    CancelShipment,
    Dispatched,
    DispatchRefused,
    DispatchShipment,
    FollowRefund,
    Outcomes,
    Prepared,
    PrepareShipment,
    RefundEnded,
    RefundPending,
    RefundRejected,
    Shipment,
    Unbooked,
    book_of,
    cancel_of,
    dispatch_of,
    follow_of,
    prepare_of,
)

NAME = "fulfillment"
CARRIER_UNAVAILABLE = "carrier_unavailable"

Subscribes = PaymentCaptured | OrderWithdrawn | OrderConfirmed | RetryRequested | Settled
Publishes = (
    ShipmentScheduled
    | ShipmentRejected
    | ShipmentCancelled
    | ShipmentCancelFailed
    | LabelRefundRejected
    | ShipmentDispatched
    | ShipmentDispatchFailed
)
Decided = Decision[Shipment | None, Publishes, Calls]


def decide(
    shipment: Shipment | None, message: Subscribes | Outcomes, *, carrier: str = SANDBOX
) -> Decision[Shipment | None, Publishes, Calls]:
    match message:
        case PaymentCaptured():
            return begin(shipment, message, carrier)
        case OrderWithdrawn():
            return withdraw(shipment, message)
        case OrderConfirmed():
            return be_confirmed(shipment, message.order_id)
        case RetryRequested() | Settled():
            return take_up(shipment, message)
        case _ if shipment is not None and shipment.refund_pending:
            return end_refund(shipment, message)
        case _:
            return learn(shipment, message)


def begin(shipment: Shipment | None, paid: PaymentCaptured, carrier: str) -> Decided:
    """First by having it prepared, if the carrier wants that: its id is kept before a label is bought."""
    if shipment is not None:
        return Decision(shipment)
    begun = Shipment(paid.order_id, "booking", customer=paid.customer, lines=paid.lines, carrier=carrier)
    if carrier not in PREPARES:
        return book(begun)
    return Decision(begun, calls=(prepare_of(begun),))


def book(shipment: Shipment) -> Decided:
    return Decision(shipment, calls=(book_of(shipment),))


def withdraw(shipment: Shipment | None, withdrawn: OrderWithdrawn) -> Decided:
    if shipment is None:
        fence = Shipment(withdrawn.order_id, "fenced", withdrawn=True, reason=withdrawn.reason)
        return Decision(fence, facts=(cancelled(fence),))
    match shipment.status:
        case "booking":
            return Decision(replace(shipment, withdrawn=True, reason=withdrawn.reason))
        case "scheduled":
            return cancel(replace(shipment, withdrawn=True, reason=withdrawn.reason))
        case "dispatching" | "dispatched" | "dispatch_failed":
            raise CausalityViolated("an order that was confirmed cannot be withdrawn")
        case "rejected" | "cancelling" | "cancelled" | "cancel_failed" | "fenced":
            return Decision(shipment)


def be_confirmed(shipment: Shipment | None, order_id: UUID) -> Decided:
    if shipment is not None and shipment.status in ("dispatching", "dispatched", "dispatch_failed"):
        return Decision(shipment)
    if shipment is None or shipment.status != "scheduled":
        found = shipment.status if shipment else "none"
        raise CausalityViolated(f"order {order_id} was confirmed, but its shipment here is: {found}")
    return dispatch(shipment)


def take_up(shipment: Shipment | None, asked: RetryRequested | Settled) -> Decided:
    """What a person has it do about a cancellation or a dispatch that failed for good."""
    if shipment is None or asked.service != NAME:
        return Decision(shipment)
    settled = isinstance(asked, Settled)
    match shipment.status:
        case "cancel_failed":
            return be_cancelled(replace(shipment, settled_by=asked.by)) if settled else cancel(shipment)
        case "dispatch_failed":
            return be_dispatched(replace(shipment, settled_by=asked.by)) if settled else dispatch(shipment)
        case _:
            return Decision(shipment)


def learn(shipment: Shipment | None, outcome: Outcomes) -> Decided:
    if shipment is None or shipment.status not in IN_FLIGHT:
        return Decision(shipment)
    match outcome:
        case Prepared(carrier_shipment):
            return be_prepared(replace(shipment, carrier_shipment=carrier_shipment))
        case Booked():
            return be_booked(shipment, outcome)
        case BookingRefused(reason):
            return end_unbooked(replace(shipment, reason=shipment.reason or reason))
        case Unbooked():
            return end_unbooked(shipment)
        case RefundPending(until):
            return let_go(shipment, until)
        case RefundEnded() | RefundRejected():
            return Decision(shipment)
        case CancelRefused(reason):
            return fail_cancel(next_round(shipment), reason)
        case Dispatched():
            return be_dispatched(shipment)
        case DispatchRefused(reason):
            return fail_dispatch(next_round(shipment), reason)
        case GaveUp():
            return give_up(shipment, outcome)
        case _:
            assert_never(outcome)


def give_up(shipment: Shipment, gave_up: GaveUp[Calls]) -> Decided:
    unwanted = replace(shipment, reason=shipment.reason or CARRIER_UNAVAILABLE)
    match gave_up.call:
        case PrepareShipment():
            # Nobody learned its id, so nobody can have bought a label for it.
            return end_unbooked(unwanted)
        case BookShipment():
            return cancel(unwanted) if gave_up.maybe_done else end_unbooked(unwanted)
        case FollowRefund():
            return Decision(shipment)
        case CancelShipment():
            return fail_cancel(shipment, gave_up.reason)
        case DispatchShipment():
            return fail_dispatch(shipment, gave_up.reason)
        case _:
            assert_never(gave_up.call)


def be_prepared(shipment: Shipment) -> Decided:
    return end_unbooked(shipment) if shipment.withdrawn else book(shipment)


def be_booked(shipment: Shipment, booked: Booked) -> Decided:
    shipment = replace(shipment, shipment_id=booked.shipment_id, deliver_on=booked.deliver_on)
    if shipment.withdrawn:
        return cancel(shipment)
    scheduled = ShipmentScheduled(
        order_id=shipment.order_id, shipment_id=booked.shipment_id, deliver_on=booked.deliver_on
    )
    return Decision(replace(shipment, status="scheduled"), facts=(scheduled,))


def cancel(shipment: Shipment) -> Decided:
    return Decision(replace(shipment, status="cancelling"), calls=(cancel_of(shipment),))


def dispatch(shipment: Shipment) -> Decided:
    return Decision(replace(shipment, status="dispatching"), calls=(dispatch_of(shipment),))


def let_go(shipment: Shipment, until: datetime) -> Decided:
    """It ends now: the goods stay here. What the label cost is between us and the carrier."""
    ended = end_unbooked(replace(shipment, refund_pending=True))
    return replace(ended, calls=(follow_of(shipment, until),))


def end_refund(shipment: Shipment, outcome: Outcomes) -> Decided:
    over = replace(shipment, refund_pending=False)
    match outcome:
        case RefundEnded():
            return Decision(over)
        case RefundRejected(reason):
            return reject_refund(over, reason)
        case GaveUp(FollowRefund() as call, reason):
            return reject_refund(over, f"{call.name}: {reason}")
        case _:
            return Decision(shipment)


def reject_refund(shipment: Shipment, reason: str) -> Decided:
    """Whoever used that label may have sent the goods: a person looks, or has it tried again."""
    stuck = replace(next_round(shipment), status="cancel_failed", reversed=True)
    rejected = LabelRefundRejected(order_id=shipment.order_id, reason=reason[:200])
    return Decision(stuck, facts=(rejected,))


def end_unbooked(shipment: Shipment) -> Decided:
    if shipment.withdrawn:
        return be_cancelled(shipment)
    reason = shipment.reason or CARRIER_UNAVAILABLE
    rejected = ShipmentRejected(order_id=shipment.order_id, reason=reason)
    return Decision(replace(shipment, status="rejected"), facts=(rejected,))


def be_cancelled(shipment: Shipment) -> Decided:
    return Decision(replace(shipment, status="cancelled"), facts=(cancelled(shipment),))


def cancelled(shipment: Shipment) -> ShipmentCancelled:
    return ShipmentCancelled(
        order_id=shipment.order_id, reason=shipment.reason or "withdrawn", settled_by=shipment.settled_by
    )


def be_dispatched(shipment: Shipment) -> Decided:
    gone = ShipmentDispatched(
        order_id=shipment.order_id,
        shipment_id=shipment.shipment_id or "",
        settled_by=shipment.settled_by,
    )
    return Decision(replace(shipment, status="dispatched"), facts=(gone,))


def next_round(shipment: Shipment) -> Shipment:
    """Refused, and that is certain: a retry under the same key would only be refused again."""
    return replace(shipment, round=shipment.round + 1)


def fail_cancel(shipment: Shipment, reason: str) -> Decided:
    failed = ShipmentCancelFailed(order_id=shipment.order_id, reason=reason[:200])
    return Decision(replace(shipment, status="cancel_failed"), facts=(failed,))


def fail_dispatch(shipment: Shipment, reason: str) -> Decided:
    failed = ShipmentDispatchFailed(order_id=shipment.order_id, reason=reason[:200])
    return Decision(replace(shipment, status="dispatch_failed"), facts=(failed,))
