"""What fulfilment makes of each fact and outcome.

    payment.captured   -> book -> shipment_scheduled | shipment_rejected
    order.withdrawn    -> cancel -> shipment_cancelled, else shipment_cancel_failed
                          (or a fence, when nothing was booked yet)
    order.confirmed    -> dispatch, the irreversible step -> shipment_dispatched,
                          else shipment_dispatch_failed
    saga.retry_requested,
    saga.settled       -> what failed is tried again; or a person saw to it, and it is as good as done

A booking in flight when the order is withdrawn is cancelled once its outcome is known.
"""

from dataclasses import dataclass, replace
from datetime import date
from typing import Literal, assert_never
from uuid import UUID

from events.decision import Call, CausalityViolated, Decision, GaveUp, Outcome
from events.facts.base import Line, Lines, Token
from events.facts.fulfillment import (
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

NAME = "fulfillment"
CARRIER_UNAVAILABLE = "carrier_unavailable"


class BookShipment(Call, name="book_shipment"):
    """Have the carrier take these lines to this customer."""

    customer: Token
    lines: Lines


class CancelShipment(Call, name="cancel_shipment", retry_policy="undo"):
    """Let the carrier forget the booking, and refuse a late one."""


class DispatchShipment(Call, name="dispatch_shipment", retry_policy="undo"):
    """Hand the goods over."""


@dataclass(frozen=True, slots=True)
class Booked(Outcome):
    shipment_id: str
    deliver_on: date


@dataclass(frozen=True, slots=True)
class BookingRefused(Outcome):
    reason: str


@dataclass(frozen=True, slots=True)
class Unbooked(Outcome):
    """The carrier has nothing for this order, nor will it accept anything."""


@dataclass(frozen=True, slots=True)
class CancelRefused(Outcome):
    reason: str


@dataclass(frozen=True, slots=True)
class Dispatched(Outcome):
    pass


@dataclass(frozen=True, slots=True)
class DispatchRefused(Outcome):
    reason: str


Calls = BookShipment | CancelShipment | DispatchShipment
Subscribes = PaymentCaptured | OrderWithdrawn | OrderConfirmed | RetryRequested | Settled
Outcomes = Booked | BookingRefused | Unbooked | CancelRefused | Dispatched | DispatchRefused | GaveUp[Calls]
Publishes = (
    ShipmentScheduled
    | ShipmentRejected
    | ShipmentCancelled
    | ShipmentCancelFailed
    | ShipmentDispatched
    | ShipmentDispatchFailed
)


@dataclass(frozen=True, slots=True)
class Shipment:
    """One order's shipment. `fenced`: withdrawn before it was booked, so never to be booked.

    `withdrawn` means that the order's owner asked for the undo, so it ends in `shipment_cancelled`; an
    undo that fulfilment began by itself ends in `shipment_rejected`. `reason` is why it is undone. `round`:
    under which key the next attempt at cancelling or dispatching is made.
    """

    order_id: UUID
    status: Literal[
        "booking",
        "scheduled",
        "rejected",
        "cancelling",
        "cancelled",
        "cancel_failed",
        "dispatching",
        "dispatched",
        "dispatch_failed",
        "fenced",
    ]
    customer: str | None = None
    lines: tuple[Line, ...] = ()
    shipment_id: str | None = None
    deliver_on: date | None = None
    withdrawn: bool = False
    reason: str | None = None
    round: int = 1
    settled_by: str | None = None


Decided = Decision[Shipment | None, Publishes, Calls]
# A call is on its way, and only then does an outcome mean anything.
IN_FLIGHT = frozenset({"booking", "cancelling", "dispatching"})


def decide(
    shipment: Shipment | None, message: Subscribes | Outcomes
) -> Decision[Shipment | None, Publishes, Calls]:
    match message:
        case PaymentCaptured():
            return book(shipment, message)
        case OrderWithdrawn():
            return withdraw(shipment, message)
        case OrderConfirmed():
            return be_confirmed(shipment, message.order_id)
        case RetryRequested() | Settled():
            return take_up(shipment, message)
        case _:
            return learn(shipment, message)


def book(shipment: Shipment | None, paid: PaymentCaptured) -> Decided:
    if shipment is not None:
        return Decision(shipment)
    booking = Shipment(paid.order_id, "booking", customer=paid.customer, lines=paid.lines)
    call = BookShipment(order_id=paid.order_id, customer=paid.customer, lines=paid.lines)
    return Decision(booking, calls=(call,))


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
        case Booked():
            return be_booked(shipment, outcome)
        case BookingRefused(reason):
            return end_unbooked(replace(shipment, reason=shipment.reason or reason))
        case Unbooked():
            return end_unbooked(shipment)
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
    match gave_up.call:
        case BookShipment():
            unwanted = replace(shipment, reason=shipment.reason or CARRIER_UNAVAILABLE)
            return cancel(unwanted) if gave_up.maybe_done else end_unbooked(unwanted)
        case CancelShipment():
            return fail_cancel(shipment, gave_up.reason)
        case DispatchShipment():
            return fail_dispatch(shipment, gave_up.reason)
        case _:
            assert_never(gave_up.call)


def be_booked(shipment: Shipment, booked: Booked) -> Decided:
    shipment = replace(shipment, shipment_id=booked.shipment_id, deliver_on=booked.deliver_on)
    if shipment.withdrawn:
        return cancel(shipment)
    scheduled = ShipmentScheduled(
        order_id=shipment.order_id, shipment_id=booked.shipment_id, deliver_on=booked.deliver_on
    )
    return Decision(replace(shipment, status="scheduled"), facts=(scheduled,))


def cancel(shipment: Shipment) -> Decided:
    call = CancelShipment(order_id=shipment.order_id, round=shipment.round)
    return Decision(replace(shipment, status="cancelling"), calls=(call,))


def dispatch(shipment: Shipment) -> Decided:
    call = DispatchShipment(order_id=shipment.order_id, round=shipment.round)
    return Decision(replace(shipment, status="dispatching"), calls=(call,))


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
