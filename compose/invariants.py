"""What must be true of the system's books, whatever happened: each invariant a sentence and a pure function.

Tests, drills and `make check` share them.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from uuid import UUID

from compose.books import Books, Snapshot, books_by_order, leftovers, statuses_of

AllBooks = Mapping[UUID, Books]
Complaint = tuple[UUID | None, str]


@dataclass(frozen=True, slots=True)
class Invariant:
    """`always`: true at every instant. Otherwise true of every order for which nothing is on its way."""

    name: str
    sentence: str
    always: bool
    complaints: Callable[[Snapshot, AllBooks], Iterator[Complaint]]


@dataclass(frozen=True, slots=True)
class Violation:
    invariant: Invariant
    order_id: UUID | None
    what: str

    def __str__(self) -> str:
        about = f"order {self.order_id}: " if self.order_id else ""
        return f"{self.invariant.name}: {about}{self.what}"


INVARIANTS: list[Invariant] = []

Complaints = Callable[[Snapshot, AllBooks], Iterator[Complaint]]


def invariant(sentence: str, *, always: bool = False) -> Callable[[Complaints], Complaints]:
    """Enter a function into INVARIANTS under its own name."""

    def enter(complaints: Complaints) -> Complaints:
        INVARIANTS.append(Invariant(complaints.__name__, sentence, always, complaints))
        return complaints

    return enter


def violations(snapshot: Snapshot, still_moving: AbstractSet[UUID] = frozenset()) -> list[Violation]:
    """What is wrong with these books; nothing, if all is well.

    Orders `still_moving` have facts or calls on their way: of them, and of the system's backlog while there
    are such orders, only what is `always` true is asked.
    """
    books = books_by_order(snapshot)
    return [
        Violation(rule, order_id, what)
        for rule in INVARIANTS
        for order_id, what in rule.complaints(snapshot, books)
        if rule.always or not (still_moving if order_id is None else order_id in still_moving)
    ]


# --- true at every instant -------------------------------------------------------------------------------


@invariant("Of every SKU, available + reserved + sold = stocked, and none of them is negative.", always=True)
def stock_adds_up(snapshot: Snapshot, _books: AllBooks) -> Iterator[Complaint]:
    for stock in snapshot.stock:
        parts = (stock.available, stock.reserved, stock.sold)
        if sum(parts) != stock.stocked or min(parts) < 0:
            yield None, f"{stock.sku}: {' + '.join(map(str, parts))} of {stock.stocked} stocked"


@invariant("What is reserved and sold of a SKU is what the reservations say, unit for unit.", always=True)
def stock_has_its_orders(snapshot: Snapshot, _books: AllBooks) -> Iterator[Complaint]:
    wanted: Counter[tuple[str, str]] = Counter()
    for reservation in (*snapshot.reservations, *snapshot.sold_before):
        for sku, quantity in reservation.units.items():
            wanted[sku, reservation.status] += quantity
    for stock in snapshot.stock:
        for status, found in (("reserved", stock.reserved), ("sold", stock.sold)):
            if found != wanted[stock.sku, status]:
                yield None, f"{stock.sku}: {found} {status}, but orders have {wanted[stock.sku, status]}"


@invariant("An order is charged at most once, and its money goes back at most once.", always=True)
def money_moves_once(_snapshot: Snapshot, books: AllBooks) -> Iterator[Complaint]:
    for order_id, book in books.items():
        taken, returned = book.times("captured"), book.times("refunded", "credited")
        if taken > 1 or returned > taken or not 0 <= book.charged_minor <= book.sum_minor("authorised"):
            yield order_id, f"captured {taken} times, given back {returned} times"


@invariant("Nothing is dispatched, and no customer told so, before the order is confirmed.", always=True)
def nothing_leaves_early(_snapshot: Snapshot, books: AllBooks) -> Iterator[Complaint]:
    for order_id, book in books.items():
        if book.status == "confirmed":
            continue
        if book.parcel and book.parcel.status == "dispatched":
            yield order_id, f"on the road, but {book.status}"
        if book.notice and book.notice.ending == "confirmed":
            yield order_id, f"told as confirmed, but {book.status}"


# --- true of every order for which nothing is on its way ----------------------------------------------------


@invariant("Every accepted order ends completed or cancelled, or waits for a person who knows of it.")
def every_order_ends(_snapshot: Snapshot, books: AllBooks) -> Iterator[Complaint]:
    for order_id, book in books.items():
        if book.order is not None and book.verdict == "UNFINISHED":
            statuses = ", ".join(f"{name} {status}" for name, status in statuses_of(book).items())
            yield order_id, f"never ended: {statuses}"


@invariant("A completed order is sold, charged once and in full, and on the road.")
def completed_is_whole(_snapshot: Snapshot, books: AllBooks) -> Iterator[Complaint]:
    for order_id, book in books.items():
        if book.verdict != "COMPLETED":
            continue
        if book.reservation is None or book.reservation.status != "sold":
            yield order_id, "completed, but not sold"
        if book.times("captured") != 1 or not book.order or book.charged_minor != book.order.amount_minor:
            yield order_id, f"completed, but captured {book.times('captured')} times: {book.charged_minor}"
        if (book.parcel is None or book.parcel.status != "dispatched") and not book.dispatched_by_a_person:
            yield order_id, "completed, but the carrier has not dispatched it"


@invariant("A cancelled order leaves nothing behind: no reservation, no charge, no shipment.")
def cancelled_is_undone(_snapshot: Snapshot, books: AllBooks) -> Iterator[Complaint]:
    for order_id, book in books.items():
        if book.verdict == "CANCELLED":
            yield from ((order_id, f"cancelled, but {left}") for left in leftovers(book))


@invariant("No reservation, charge or shipment is there without an order that wants it.")
def nothing_without_an_order(_snapshot: Snapshot, books: AllBooks) -> Iterator[Complaint]:
    for order_id, book in books.items():
        if book.status == "unknown":
            yield from ((order_id, f"unknown to order_svc, but {left}") for left in leftovers(book))


@invariant("A case for a person stands where its undo failed: no step before it was undone.")
def manual_case_stands_still(_snapshot: Snapshot, books: AllBooks) -> Iterator[Complaint]:
    for order_id, book in books.items():
        if book.verdict != "NEEDS_MANUAL":
            continue
        held = "sold" if book.status == "confirmed" else "reserved"
        if book.reservation is None or book.reservation.status != held:
            yield order_id, f"for a person to settle, but no longer {held}"
        if (book.payment is None or book.payment.status != "refund_failed") and not book.charged_minor:
            yield order_id, "for a person to settle because of its shipment, but not charged"


@invariant("Payment and the provider's ledger agree on an order's money, unless a person settled it.")
def payment_matches_the_provider(_snapshot: Snapshot, books: AllBooks) -> Iterator[Complaint]:
    for order_id, book in books.items():
        if book.paid_back_by_a_person:
            continue
        match book.payment.status if book.payment else "none":
            case "captured" if not book.payment or book.charged_minor != book.payment.amount_minor:
                yield order_id, f"captured says payment, but the provider has {book.charged_minor}"
            case "none" | "held" | "declined" | "refunded" | "fenced" if not book.money_is_back:
                yield order_id, "not charged says payment, but the provider has money of the customer"
            case _:
                pass


CARRIER_SAYS: Mapping[str, tuple[str, ...]] = {
    "none": ("none",),
    "fenced": ("none",),
    "scheduled": ("booked",),
    "dispatched": ("dispatched",),
    "rejected": ("none", "cancelled", "closed"),
    "cancelled": ("none", "cancelled", "closed"),
}
# What a person did instead, the carrier need not have noticed.
CARRIER_MAY_SAY_AS_WELL: Mapping[str, tuple[str, ...]] = {
    "cancelled": ("booked",),
    "dispatched": ("booked", "cancelled"),
}


@invariant("Fulfilment and the carrier agree on an order's shipment, unless a person settled it.")
def shipment_matches_the_carrier(_snapshot: Snapshot, books: AllBooks) -> Iterator[Complaint]:
    for order_id, book in books.items():
        ours = book.shipment.status if book.shipment else "none"
        theirs = book.parcel.status if book.parcel else "none"
        possible = CARRIER_SAYS.get(ours, (theirs,))
        if book.shipment and book.shipment.settled_by:
            possible += CARRIER_MAY_SAY_AS_WELL.get(ours, ())
        if theirs not in possible:
            yield order_id, f"{ours} says fulfilment, {theirs} says the carrier"


@invariant("Every customer of a confirmed or cancelled order was told so, or notification says why not.")
def customer_is_told(_snapshot: Snapshot, books: AllBooks) -> Iterator[Complaint]:
    for order_id, book in books.items():
        if book.status not in ("confirmed", "cancelled"):
            continue
        if book.notice is None or book.notice.status == "sending":
            yield order_id, f"{book.status}, but the customer was not told"
        elif book.notice.ending != book.status:
            yield order_id, f"{book.status}, but told as {book.notice.ending}"


@invariant("Every outbox and every table of calls is empty.")
def nothing_waits(snapshot: Snapshot, _books: AllBooks) -> Iterator[Complaint]:
    for backlog in snapshot.backlogs:
        if backlog.outbox or backlog.calls:
            yield None, f"{backlog.service} has {backlog.outbox} facts and {backlog.calls} calls left"


@invariant("The tracker's view of every order agrees with the services' own books.")
def tracker_agrees(snapshot: Snapshot, books: AllBooks) -> Iterator[Complaint]:
    if snapshot.sagas is None:
        return
    for order_id, book in books.items():
        if book.order is None or book.verdict == "UNFINISHED":
            continue
        seen = book.saga.state if book.saga else "nothing"
        if seen != book.verdict:
            yield order_id, f"{book.verdict} by the services' books, {seen} by the tracker's"
