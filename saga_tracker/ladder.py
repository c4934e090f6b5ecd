"""Where an order stands, as a person sees it, by the furthest fact that is known of it. Pure."""

from dataclasses import dataclass
from enum import StrEnum

from events.facts.base import Fact
from events.facts.fulfillment import (
    ShipmentCancelFailed,
    ShipmentCancelled,
    ShipmentRejected,
    ShipmentScheduled,
)
from events.facts.inventory import StockRejected, StockReleased, StockReserved
from events.facts.order import OrderConfirmed, OrderCreated, OrderWithdrawn
from events.facts.payment import (
    PaymentApproved,
    PaymentCaptured,
    PaymentDeclined,
    PaymentHeld,
    PaymentPending,
    PaymentRefunded,
    PaymentRefundFailed,
    PaymentRefundPending,
)
from events.facts.saga import ApprovalExpired
from saga_tracker.steps import AFTER_THE_PIVOT


class State(StrEnum):
    """Where an order stands, as a person sees it."""

    PENDING_INVENTORY = "PENDING_INVENTORY"
    PENDING_PAYMENT = "PENDING_PAYMENT"
    AWAITING_APPROVAL = "AWAITING_APPROVAL"
    PENDING_SHIPMENT = "PENDING_SHIPMENT"
    COMPLETING = "COMPLETING"
    COMPLETED = "COMPLETED"
    COMPENSATING = "COMPENSATING"
    CANCELLED = "CANCELLED"
    NEEDS_MANUAL = "NEEDS_MANUAL"


@dataclass(frozen=True, slots=True)
class Rung:
    """One of `reached_by` puts a saga here, unless it stands on a higher rung. `anew`: for a second time."""

    state: State
    reached_by: tuple[type[Fact], ...]
    anew: bool = False


# The highest rung reached says where a saga stands that is neither cancelled nor past its pivot: how far
# it came forward or, once it turned back, how far it is undone.
LADDER = (
    Rung(State.COMPENSATING, (StockReleased, StockRejected)),
    Rung(State.COMPENSATING, (PaymentRefunded, PaymentDeclined)),
    Rung(State.NEEDS_MANUAL, (PaymentRefundFailed,)),
    Rung(State.COMPENSATING, (PaymentRefundPending,)),
    Rung(State.COMPENSATING, (ShipmentCancelled, ShipmentRejected)),
    Rung(State.NEEDS_MANUAL, (ShipmentCancelFailed,)),
    Rung(State.COMPENSATING, (OrderWithdrawn,)),
    Rung(State.PENDING_SHIPMENT, (ShipmentScheduled,)),
    Rung(State.PENDING_SHIPMENT, (PaymentCaptured,)),
    Rung(State.PENDING_PAYMENT, (PaymentPending,), anew=True),
    Rung(State.PENDING_PAYMENT, (PaymentApproved,), anew=True),
    Rung(State.AWAITING_APPROVAL, (ApprovalExpired,)),
    Rung(State.AWAITING_APPROVAL, (PaymentHeld,)),
    Rung(State.PENDING_PAYMENT, (StockReserved,)),
    Rung(State.PENDING_INVENTORY, (OrderCreated,)),
)
# Telling of a cancellation is no sign that an order was confirmed: see `_Known`.
PAST_PIVOT: tuple[type[Fact], ...] = (
    OrderConfirmed,
    *(kind for step in AFTER_THE_PIVOT for kind in step.results),
)
TURNED_BACK = (OrderWithdrawn, StockRejected, PaymentDeclined, ShipmentRejected)
