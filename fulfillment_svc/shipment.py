"""A shipment as fulfillment_svc keeps it, what it asks of a carrier, and what may come of that.

A shipment stays with the carrier that it was begun with, so each call names that carrier, and the carrier's
own id of the shipment where it has one.
"""

from dataclasses import dataclass
from datetime import date, datetime
from typing import Final, Literal
from uuid import UUID

from pydantic import BaseModel

from events.decision import Call, GaveUp, Outcome
from events.facts.base import Line, Lines, Token

SANDBOX: Final = "sandbox"
EASYPOST: Final = "easypost"
# Whoever gives a shipment an id before anything is bought. Without that id no label can have been bought.
PREPARES = frozenset({EASYPOST})


class Address(BaseModel):
    """Where a customer lives."""

    street: str
    city: str
    postcode: str
    country: str


class Recipient(BaseModel):
    """Whom the carrier brings the goods to: personal data, to be passed on and not kept or logged."""

    name: str
    address: Address


class AtCarrier(Call):
    """A call to a carrier. `carrier_shipment`: what the carrier calls this shipment."""

    carrier: str = SANDBOX
    carrier_shipment: str | None = None

    @property
    def party(self) -> str:
        """The sandbox's carrier has no other name."""
        return "carrier" if self.carrier == SANDBOX else self.carrier


class PrepareShipment(AtCarrier, name="prepare_shipment"):
    """Have the carrier give the shipment an id, and find it deliverable; nothing is bought yet."""

    customer: Token
    lines: Lines


class BookShipment(AtCarrier, name="book_shipment"):
    """Have the carrier take these lines to this customer."""

    customer: Token
    lines: Lines


class CancelShipment(AtCarrier, name="cancel_shipment", retry_policy="undo"):
    """Let the carrier forget the booking, and refuse a late one."""


class DispatchShipment(AtCarrier, name="dispatch_shipment", retry_policy="undo"):
    """Hand the goods over."""


class FollowRefund(AtCarrier, name="follow_refund", retry_policy="pending"):
    """See whether what a label cost comes back. One that is not bought by `until` never will be."""

    until: datetime


@dataclass(frozen=True, slots=True)
class Prepared(Outcome):
    """The carrier knows of the shipment, by this id."""

    carrier_shipment: str


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
class RefundPending(Outcome):
    """The booking is let go of; whether what its label cost comes back is known later."""

    until: datetime


@dataclass(frozen=True, slots=True)
class RefundEnded(Outcome):
    """It is back, or there is nothing to be had back."""


@dataclass(frozen=True, slots=True)
class RefundRejected(Outcome):
    """It does not come back: the label was used, or the carrier says that it was."""

    reason: str


@dataclass(frozen=True, slots=True)
class Dispatched(Outcome):
    pass


@dataclass(frozen=True, slots=True)
class DispatchRefused(Outcome):
    reason: str


Calls = PrepareShipment | BookShipment | CancelShipment | DispatchShipment | FollowRefund
Results = (
    Prepared
    | Booked
    | BookingRefused
    | Unbooked
    | CancelRefused
    | RefundPending
    | RefundEnded
    | RefundRejected
    | Dispatched
    | DispatchRefused
)
Outcomes = Results | GaveUp[Calls]


@dataclass(frozen=True, slots=True)
class Shipment:
    """One order's shipment. `fenced`: withdrawn before it was booked, so never to be booked.

    `withdrawn` means that the order's owner asked for the undo, so it ends in `shipment_cancelled`; an
    undo that fulfilment began by itself ends in `shipment_rejected`. `reason` is why it is undone. `round`:
    under which key the next attempt at cancelling or dispatching is made. `carrier`: with whom it was begun,
    and is finished; `carrier_shipment`: what that one calls it, where it gives ids. `refund_pending`: it was
    let go of, and what its label cost is yet to come back; `reversed`: that never came, although it was
    published as undone.
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
    carrier: str = SANDBOX
    carrier_shipment: str | None = None
    refund_pending: bool = False
    reversed: bool = False


# A call is on its way, and only then does an outcome mean anything.
IN_FLIGHT = frozenset({"booking", "cancelling", "dispatching"})


def prepare_of(shipment: Shipment) -> PrepareShipment:
    return PrepareShipment(
        order_id=shipment.order_id,
        carrier=shipment.carrier,
        customer=shipment.customer or "",
        lines=shipment.lines,
    )


def book_of(shipment: Shipment) -> BookShipment:
    return BookShipment(
        order_id=shipment.order_id,
        carrier=shipment.carrier,
        carrier_shipment=shipment.carrier_shipment,
        customer=shipment.customer or "",
        lines=shipment.lines,
    )


def cancel_of(shipment: Shipment) -> CancelShipment:
    return CancelShipment(
        order_id=shipment.order_id,
        round=shipment.round,
        carrier=shipment.carrier,
        carrier_shipment=shipment.carrier_shipment,
    )


def dispatch_of(shipment: Shipment) -> DispatchShipment:
    return DispatchShipment(
        order_id=shipment.order_id,
        round=shipment.round,
        carrier=shipment.carrier,
        carrier_shipment=shipment.carrier_shipment,
    )


def follow_of(shipment: Shipment, until: datetime) -> FollowRefund:
    return FollowRefund(
        order_id=shipment.order_id,
        round=shipment.round,
        carrier=shipment.carrier,
        carrier_shipment=shipment.carrier_shipment,
        until=until,
    )
