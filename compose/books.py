"""The books of the whole system as plain values: what was read from every database, order by order.

There is no I/O here: whoever fills a Snapshot has read the services' own tables and the outside world's
ledgers. No two databases can be read at one instant, so read effects before their causes: the outside world
first, then notices, shipments, payments, stock, orders.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal
from uuid import UUID

Verdict = Literal["COMPLETED", "CANCELLED", "NEEDS_MANUAL", "AWAITING_APPROVAL", "UNFINISHED"]


@dataclass(frozen=True, slots=True)
class OrderRow:
    order_id: UUID
    status: str
    amount_minor: int


@dataclass(frozen=True, slots=True)
class ReservationRow:
    order_id: UUID
    status: str
    units: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class StockRow:
    sku: str
    stocked: int
    available: int
    reserved: int
    sold: int


@dataclass(frozen=True, slots=True)
class PaymentRow:
    """`settled_by`: who gave the money back outside, where payment could not."""

    order_id: UUID
    status: str
    amount_minor: int
    settled_by: str | None = None


@dataclass(frozen=True, slots=True)
class ShipmentRow:
    """`settled_by`: who saw to it outside that nothing is shipped, or that it is."""

    order_id: UUID
    status: str
    settled_by: str | None = None


@dataclass(frozen=True, slots=True)
class NoticeRow:
    order_id: UUID
    status: str
    ending: str


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One movement in the payment provider's ledger: authorised, captured, voided, refunded, credited."""

    order_id: UUID
    kind: str
    amount_minor: int


@dataclass(frozen=True, slots=True)
class CarrierShipment:
    """One reference in the carrier's books: booked, dispatched, cancelled, closed."""

    order_id: UUID
    status: str


@dataclass(frozen=True, slots=True)
class SagaRow:
    """The tracker's view of one order."""

    order_id: UUID
    state: str


@dataclass(frozen=True, slots=True)
class Backlog:
    """How much of a service's work still waits: facts to publish, calls to carry out."""

    service: str
    outbox: int
    calls: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Every book of the system. `sagas` is None where no tracker was asked."""

    orders: tuple[OrderRow, ...] = ()
    reservations: tuple[ReservationRow, ...] = ()
    stock: tuple[StockRow, ...] = ()
    payments: tuple[PaymentRow, ...] = ()
    shipments: tuple[ShipmentRow, ...] = ()
    notices: tuple[NoticeRow, ...] = ()
    ledger: tuple[LedgerEntry, ...] = ()
    carrier: tuple[CarrierShipment, ...] = ()
    backlogs: tuple[Backlog, ...] = ()
    sagas: tuple[SagaRow, ...] | None = None
    # Orders that ended long ago, of which a service or the tracker has deleted its row; and what the stock
    # still counts of them.
    forgotten: Collection[UUID] = frozenset()
    sold_before: tuple[ReservationRow, ...] = ()


@dataclass(slots=True)
class Books:
    """What all services and the outside world hold of one order."""

    order: OrderRow | None = None
    reservation: ReservationRow | None = None
    payment: PaymentRow | None = None
    shipment: ShipmentRow | None = None
    notice: NoticeRow | None = None
    parcel: CarrierShipment | None = None
    saga: SagaRow | None = None
    ledger: list[LedgerEntry] = field(default_factory=list)

    @property
    def status(self) -> str:
        """What order_svc says; `unknown` when it has no order under this id, or only what overtook one."""
        if self.order is None or self.order.status.startswith("early_"):
            return "unknown"
        return self.order.status

    def times(self, *kinds: str) -> int:
        """How many movements of these kinds the ledger has."""
        return sum(entry.kind in kinds for entry in self.ledger)

    def sum_minor(self, *kinds: str) -> int:
        return sum(entry.amount_minor for entry in self.ledger if entry.kind in kinds)

    @property
    def charged_minor(self) -> int:
        """What the customer has paid and not got back, in minor units."""
        return self.sum_minor("captured") - self.sum_minor("refunded", "credited")

    @property
    def money_is_back(self) -> bool:
        """Nothing is charged, and nothing authorised is still set aside on the customer's card."""
        set_aside = self.times("authorised") - self.times("captured", "voided")
        return self.charged_minor == 0 and set_aside <= 0

    @property
    def paid_back_by_a_person(self) -> bool:
        """The customer has the money back, and the provider may know nothing of it."""
        payment = self.payment
        return payment is not None and payment.status == "refunded" and payment.settled_by is not None

    @property
    def cancelled_by_a_person(self) -> bool:
        """Nothing is shipped, although the carrier may still have the booking."""
        shipment = self.shipment
        return shipment is not None and shipment.status == "cancelled" and shipment.settled_by is not None

    @property
    def dispatched_by_a_person(self) -> bool:
        """The goods are on their way, and the carrier may know nothing of it."""
        shipment = self.shipment
        return shipment is not None and shipment.status == "dispatched" and shipment.settled_by is not None

    @property
    def verdict(self) -> Verdict:
        """How the order ended, by what the services themselves say; UNFINISHED when it has not."""
        shipment = self.shipment.status if self.shipment else "none"
        payment = self.payment.status if self.payment else "none"
        match self.status:
            case "cancelled":
                return "CANCELLED"
            case "confirmed" if shipment == "dispatched":
                return "COMPLETED"
            case "confirmed" if shipment == "dispatch_failed":
                return "NEEDS_MANUAL"
            case "placed" | "withdrawn" if shipment == "cancel_failed" or payment == "refund_failed":
                return "NEEDS_MANUAL"
            case "placed" if payment == "held":
                return "AWAITING_APPROVAL"
            case _:
                return "UNFINISHED"


def books_by_order(snapshot: Snapshot) -> dict[UUID, Books]:
    """The snapshot, order by order, but for orders that were forgotten: not everybody has them any more."""
    books: defaultdict[UUID, Books] = defaultdict(Books)
    for order in snapshot.orders:
        books[order.order_id].order = order
    for reservation in snapshot.reservations:
        books[reservation.order_id].reservation = reservation
    for payment in snapshot.payments:
        books[payment.order_id].payment = payment
    for shipment in snapshot.shipments:
        books[shipment.order_id].shipment = shipment
    for notice in snapshot.notices:
        books[notice.order_id].notice = notice
    for entry in snapshot.ledger:
        books[entry.order_id].ledger.append(entry)
    for parcel in snapshot.carrier:
        books[parcel.order_id].parcel = parcel
    for saga in snapshot.sagas or ():
        books[saga.order_id].saga = saga
    return {order_id: book for order_id, book in books.items() if order_id not in snapshot.forgotten}


def leftovers(book: Books) -> Iterator[str]:
    """What an order that ended without effect must not have, unless a person says that it is seen to."""
    if book.reservation and book.reservation.status in ("reserved", "sold"):
        yield f"its stock is {book.reservation.status}"
    if not book.money_is_back and not book.paid_back_by_a_person:
        yield f"its money is not back: {', '.join(entry.kind for entry in book.ledger)}"
    excused = ("booked",) if book.cancelled_by_a_person else ()
    if book.parcel and book.parcel.status in ("booked", "dispatched") and book.parcel.status not in excused:
        yield f"its shipment is {book.parcel.status}"


def statuses_of(book: Books) -> dict[str, str]:
    """Every service's own status of one order, by service; `none` where it has no row."""
    rows = {
        "order": book.order,
        "inventory": book.reservation,
        "payment": book.payment,
        "fulfillment": book.shipment,
        "notification": book.notice,
    }
    return {service: row.status if row else "none" for service, row in rows.items()}
