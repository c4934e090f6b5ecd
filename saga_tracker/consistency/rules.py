"""What must be true of the system's books, whatever happened: pure, and the same for whoever asks.

Each invariant is a sentence and a function: tests, drills and `make check` ask them all of a whole snapshot.
Differences are between the tracker's view of an order and what all others say, once its saga ended or needs a
person: of one that moves, everyone may know something else. Reconciliation lists them.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import chain
from uuid import UUID

from saga_tracker.consistency.snapshot import (
    DONE,
    NOT_THERE,
    NOTHING,
    PROVIDER,
    STATUSES_AFTER,
    UNDONE,
    Books,
    Party,
    SeenSaga,
    Snapshot,
    books_by_order,
    statuses_of,
    sum_of,
)
from saga_tracker.projection import State
from saga_tracker.steps import SERVICES

AllBooks = Mapping[UUID, Books]
Complaint = tuple[UUID | None, str]
Complaints = Callable[[Snapshot, AllBooks], Iterator[Complaint]]


@dataclass(frozen=True, slots=True)
class Invariant:
    """`always`: true at every instant. Otherwise true of every order for which nothing is on its way."""

    name: str
    sentence: str
    always: bool
    complaints: Complaints


@dataclass(frozen=True, slots=True)
class Violation:
    invariant: Invariant
    order_id: UUID | None
    what: str

    def __str__(self) -> str:
        about = f"order {self.order_id}: " if self.order_id else ""
        return f"{self.invariant.name}: {about}{self.what}"


INVARIANTS: list[Invariant] = []
# Whose ends have rules of their own.
_RULED = frozenset({"order", "inventory", "payment", "fulfillment", "notification"})
NOT_CHARGED = ("none", "held", "declined", "refunded", "fenced")


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
    taken = [(known.status, known.units or {}) for known in snapshot.states.get("inventory", {}).values()]
    for status, units in (*taken, *(("sold", units) for units in snapshot.sold_before)):
        for sku, quantity in units.items():
            wanted[sku, status] += quantity
    for stock in snapshot.stock:
        for status, found in (("reserved", stock.reserved), ("sold", stock.sold)):
            if found != wanted[stock.sku, status]:
                yield None, f"{stock.sku}: {found} {status}, but orders have {wanted[stock.sku, status]}"


@invariant("An order is charged at most once, and its money goes back at most once.", always=True)
def money_moves_once(_snapshot: Snapshot, books: AllBooks) -> Iterator[Complaint]:
    for order_id, book in books.items():
        money = book.money
        if money.moved_too_often or not 0 <= money.charged_minor <= money.sum_minor("authorised"):
            yield order_id, f"captured {money.captures} times, given back {money.returns} times"


@invariant("Nothing is dispatched, and no customer notified, before the order is confirmed.", always=True)
def nothing_leaves_early(_snapshot: Snapshot, books: AllBooks) -> Iterator[Complaint]:
    for order_id, book in books.items():
        if book.status == "confirmed":
            continue
        if book.parcel == "dispatched":
            yield order_id, f"on the road, but {book.status}"
        if book.notice.ending == "confirmed":
            yield order_id, f"notified as confirmed, but {book.status}"


# --- true of every order for which nothing is on its way ----------------------------------------------------


@invariant("Every accepted order ends completed or cancelled, or waits for a person who knows of it.")
def every_order_ends(_snapshot: Snapshot, books: AllBooks) -> Iterator[Complaint]:
    for order_id, book in books.items():
        if book.order != NOTHING and book.verdict == "UNFINISHED":
            statuses = ", ".join(f"{name} {status}" for name, status in statuses_of(book).items())
            yield order_id, f"never ended: {statuses}"


@invariant("A completed order is sold, charged once and in full, and on the road.")
def completed_is_whole(_snapshot: Snapshot, books: AllBooks) -> Iterator[Complaint]:
    for order_id, book in books.items():
        if book.verdict != "COMPLETED":
            continue
        if book.reservation.status != "sold":
            yield order_id, "completed, but not sold"
        money = book.money
        if money.captures != 1 or money.charged_minor != book.order.amount_minor:
            yield order_id, f"completed, but captured {money.captures} times: {money.charged_minor}"
        if book.parcel != "dispatched" and not book.dispatched_by_a_person:
            yield order_id, "completed, but the carrier has not dispatched it"


@invariant("Every further service is done with each order that has ended, in a way that fits its end.")
def others_are_done(_snapshot: Snapshot, books: AllBooks) -> Iterator[Complaint]:
    for order_id, book in books.items():
        ends = {"COMPLETED": DONE, "CANCELLED": UNDONE}.get(book.verdict, {})
        for name, known in book.states.items():
            if name not in _RULED and name in ends and known.status not in ends[name]:
                yield order_id, f"{book.verdict.lower()}, but {name} says {known.status}"


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
        held = {"confirmed": "sold", "cancelled": "released"}.get(book.status, "reserved")
        if book.reservation.status != held:
            yield order_id, f"for a person to settle, but no longer {held}"
        if not (book.payment.status == "refund_failed" or book.shipment.reversed or book.money.charged_minor):
            yield order_id, "for a person to settle because of its shipment, but not charged"


@invariant("Payment and the provider's ledger agree on an order's money, unless a person settled it.")
def payment_matches_the_provider(_snapshot: Snapshot, books: AllBooks) -> Iterator[Complaint]:
    for order_id, book in books.items():
        if book.paid_back_by_a_person:
            continue
        says, money = book.payment.status, book.money
        if says == "captured" and money.charged_minor != book.payment.amount_minor:
            yield order_id, f"captured says payment, but the provider has {money.charged_minor}"
        if says in NOT_CHARGED and not money.money_is_back:
            yield order_id, "not charged says payment, but the provider has money of the customer"


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
        ours, theirs = book.shipment.status, book.parcel
        possible = CARRIER_SAYS.get(ours, (theirs,))
        if book.shipment.settled_by:
            possible += CARRIER_MAY_SAY_AS_WELL.get(ours, ())
        if theirs not in possible:
            yield order_id, f"{ours} says fulfilment, {theirs} says the carrier"


@invariant("Every customer of a confirmed or cancelled order was notified, or notification says why not.")
def customer_is_notified(_snapshot: Snapshot, books: AllBooks) -> Iterator[Complaint]:
    for order_id, book in books.items():
        if book.status not in ("confirmed", "cancelled"):
            continue
        if book.notice == NOTHING or book.notice.status == "sending":
            yield order_id, f"{book.status}, but the customer was not notified"
        elif book.notice.ending != book.status:
            yield order_id, f"{book.status}, but notified as {book.notice.ending}"


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
        if book.order == NOTHING or book.verdict == "UNFINISHED":
            continue
        seen = book.saga.state if book.saga else "nothing"
        if seen != book.verdict:
            yield order_id, f"{book.verdict} by the services' books, {seen} by the tracker's"


def leftovers(book: Books) -> Iterator[str]:
    """What an order that ended without effect must not have, unless a person says that it is seen to."""
    if book.reservation.status in ("reserved", "sold"):
        yield f"its stock is {book.reservation.status}"
    if not book.money.money_is_back and not book.paid_back_by_a_person:
        yield f"its money is not back: {', '.join(movement.kind for movement in book.money.movements)}"
    if book.parcel == "dispatched" or (book.parcel == "booked" and not book.cancelled_by_a_person):
        yield f"its shipment is {book.parcel}"


# --- between the tracker's view and everybody else ---------------------------------------------------------

# A saga in one of these states is compared.
COMPARED = (State.COMPLETED, State.CANCELLED, State.NEEDS_MANUAL)
# Whose answers it takes to judge what a party says.
INPUTS: Mapping[Party, frozenset[Party]] = {
    **{service: frozenset({service}) for service in SERVICES},
    "payment": frozenset({"payment", "order", "inventory"}),
    PROVIDER: frozenset({PROVIDER, "payment"}),
}
# How a saga ends, by its state: what a customer is notified of, and where each service stands then.
_ENDS: Mapping[str, tuple[str, Mapping[str, tuple[str, ...]]]] = {
    State.COMPLETED: ("confirmed", DONE),
    State.CANCELLED: ("cancelled", UNDONE),
}
# While a person is waited for because of this fact, its service stands still in this status.
_STANDS_STILL = {
    "payment.refund_failed": "refund_failed",
    "payment.refund_reversed": "refund_failed",
    "fulfillment.shipment_cancel_failed": "cancel_failed",
    "fulfillment.label_refund_rejected": "cancel_failed",
    "fulfillment.shipment_dispatch_failed": "dispatch_failed",
}


@dataclass(frozen=True, slots=True)
class Difference:
    """What was expected of a party, and found. `about`: status, ending, amount, money, movements or saga."""

    order_id: UUID
    party: Party
    about: str
    expected: str
    found: str


Found = tuple[Party, str, str, str]  # About what, what was expected, what was found.


def judged(answered: AbstractSet[Party], asked: AbstractSet[Party]) -> frozenset[Party]:
    """The parties on which `differences` has the last word: whose inputs, if asked, answered."""
    return frozenset(party for party in answered if INPUTS[party] & asked <= answered)


def differences(order_id: UUID, book: Books) -> Iterator[Difference]:
    """What does not fit. Nothing is listed of services that were not asked, nor of money without a ledger."""
    saga = book.saga
    if saga is not None and saga.state not in COMPARED:
        return
    found = chain(_of_unseen(book) if saga is None else (), _of_money(book, saga))
    if saga is not None:
        of_states = _of_manual_case(book, saga) if saga.state == State.NEEDS_MANUAL else _of_ended(book, saga)
        found = chain(of_states, _of_amount(book), found)
    for party, about, expected, what in found:
        yield Difference(order_id, party, about, expected, what)


def _of_ended(book: Books, saga: SeenSaga) -> Iterator[Found]:
    ending, expected = _ENDS[saga.state]
    for service, known in book.states.items():
        allowed = expected[service]
        if service == "payment" and "inventory" in book.states and book.reservation.status != "rejected":
            # Stock comes back because of the payment, which therefore knows of the order.
            allowed = tuple(status for status in allowed if status != "none")
        if service == "notification" and saga.retells:
            allowed = (*allowed, "sending")
        if known.status not in allowed:
            yield service, "status", " or ".join(allowed), known.status
        elif known.ending is not None and known.ending != ending:
            yield service, "ending", ending, known.ending


def _of_manual_case(book: Books, saga: SeenSaga) -> Iterator[Found]:
    """Whoever is waited for must not have done it already: then its fact is missing."""
    for wait in saga.waits:
        service = next((name for name in book.states if name == wait.service), None)
        if service is None:
            continue
        found = book.states[service].status
        stands_still = _STANDS_STILL.get(wait.because_of)
        if found in [status for fact in wait.facts for status in STATUSES_AFTER.get(fact, ())]:
            yield (
                service,
                "status",
                stands_still or f"not there yet: {' or '.join(wait.facts)} was never read",
                found,
            )
        elif stands_still is not None and found != stands_still:
            yield service, "status", stands_still, found


def _of_unseen(book: Books) -> Iterator[Found]:
    """Who has an order that ended, or was placed, has published facts of it: none was ever read."""
    for service in [name for name, known in book.states.items() if known.status != NOT_THERE]:
        yield service, "saga", "none: no fact of it was ever read", book.states[service].status


def _of_amount(book: Books) -> Iterator[Found]:
    """Who ordered for so much is charged so much."""
    order, payment = book.order, book.payment
    if order.currency is None or payment.currency is None:
        return
    ordered, charged = (
        sum_of(order.amount_minor, order.currency),
        sum_of(payment.amount_minor, payment.currency),
    )
    if ordered != charged:
        yield "payment", "amount", ordered, charged


def _of_money(book: Books, saga: SeenSaga | None) -> Iterator[Found]:
    if book.ledger is None:
        return
    money, payment, found = book.ledger, book.payment, str(book.ledger)
    if money.moved_too_often:
        often = f"captured {money.captures} times, given back {money.returns} times"
        yield "provider", "movements", "captured once at most, given back no more often", often
    if saga is None:
        if not money.money_is_back:
            yield "provider", "money", "nothing charged: no fact of it was read", found
    elif "payment" not in book.states:
        return
    elif saga.state == State.COMPLETED or (saga.state, payment.status) == (State.NEEDS_MANUAL, "captured"):
        expected = f"{sum_of(payment.amount_minor, payment.currency)} charged"
        if found != expected:
            yield "provider", "money", expected, found
    elif not (money.money_is_back or book.paid_back_by_a_person) and (
        saga.state == State.CANCELLED or payment.status in NOT_CHARGED
    ):
        yield "provider", "money", "nothing charged", found
