"""Every invariant can be broken, says by which order, and is quiet about books that are in order."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from saga_tracker.consistency import snapshot
from saga_tracker.consistency.rules import INVARIANTS, violations
from saga_tracker.consistency.snapshot import (
    Backlog,
    Books,
    Movement,
    SeenSaga,
    ServiceState,
    Snapshot,
    StockRow,
    Verdict,
    books_by_order,
)
from saga_tracker.steps import SERVICES

DONE, UNDONE, STUCK, STRANGER = UUID(int=1), UUID(int=2), UUID(int=3), UUID(int=4)


def money(*kinds: str) -> tuple[Movement, ...]:
    return tuple(Movement(kind, 500) for kind in kinds)


# One order completed, one cancelled after its refund, and one whose refund failed for good.
SOUND = Snapshot(
    states={
        "order": {
            DONE: ServiceState("confirmed", 500),
            UNDONE: ServiceState("cancelled", 500),
            STUCK: ServiceState("placed", 500),
        },
        "inventory": {
            DONE: ServiceState("sold", units={"apple": 2}),
            UNDONE: ServiceState("released", units={"apple": 1}),
            STUCK: ServiceState("reserved", units={"apple": 4}),
        },
        "payment": {
            DONE: ServiceState("captured", 500),
            UNDONE: ServiceState("refunded", 500),
            STUCK: ServiceState("refund_failed", 500),
        },
        "fulfillment": {
            DONE: ServiceState("dispatched"),
            UNDONE: ServiceState("rejected"),
            STUCK: ServiceState("rejected"),
        },
        "notification": {
            DONE: ServiceState("notified", ending="confirmed"),
            UNDONE: ServiceState("failed", ending="cancelled"),
        },
    },
    ledger={
        DONE: money("authorised", "captured"),
        UNDONE: money("authorised", "captured", "refunded"),
        STUCK: money("authorised", "captured"),
    },
    carrier={DONE: "dispatched", UNDONE: "closed"},
    sagas={DONE: SeenSaga("COMPLETED"), UNDONE: SeenSaga("CANCELLED"), STUCK: SeenSaga("NEEDS_MANUAL")},
    stock=(StockRow("apple", stocked=9, available=3, reserved=4, sold=2),),
    backlogs=(Backlog("order", 0, 0), Backlog("payment", 0, 0)),
)


def but(book: str, order_id: UUID, instead: Any = None, *, books: Snapshot = SOUND) -> Snapshot:
    """These books with something else about an order in one of them; by default, with nothing."""
    service = next((name for name in books.states if name == book), None)
    known: Mapping[UUID, Any] = getattr(books, book) if service is None else books.states[service]
    changed = {key: each for key, each in {**known, order_id: instead}.items() if each is not None}
    if service is None:
        others: dict[str, Any] = {book: changed}
        return replace(books, **others)
    return replace(books, states={**books.states, service: changed})


@pytest.fixture(autouse=True)
def _a_further_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that says of itself when it is done."""
    monkeypatch.setitem(snapshot.DONE, "loyalty", ("granted",))
    monkeypatch.setitem(snapshot.UNDONE, "loyalty", ("none",))


def loyalty_says(order_id: UUID, status: str) -> Snapshot:
    """These books with a further service that is done with the completed order, but for what it says here."""
    known = {DONE: ServiceState("granted"), order_id: ServiceState(status)}
    return replace(SOUND, states={**SOUND.states, "loyalty": known})


BREAKAGES = [
    (
        "stock_adds_up",
        replace(SOUND, stock=(StockRow("apple", 9, 2, 4, 2),)),
        "apple: 2 + 4 + 2 of 9 stocked",
    ),
    (
        "stock_adds_up",
        replace(SOUND, stock=(StockRow("apple", 5, -1, 4, 2),)),
        "apple: -1 + 4 + 2 of 5 stocked",
    ),
    (
        "stock_has_its_orders",
        replace(SOUND, stock=(StockRow("apple", 9, 2, 5, 2),)),
        "apple: 5 reserved, but orders have 4",
    ),
    ("stock_has_its_orders", but("inventory", DONE), "apple: 2 sold, but orders have 0"),
    (
        "money_moves_once",
        but("ledger", DONE, money("authorised", "captured", "captured")),
        "captured 2 times, given back 0 times",
    ),
    (
        "money_moves_once",
        but("ledger", UNDONE, money("authorised", "captured", "refunded", "credited")),
        "captured 1 times, given back 2 times",
    ),
    ("nothing_leaves_early", but("order", DONE, ServiceState("placed", 500)), "on the road, but placed"),
    (
        "nothing_leaves_early",
        but("notification", UNDONE, ServiceState("sending", ending="confirmed")),
        "notified as confirmed, but cancelled",
    ),
    ("every_order_ends", but("payment", STUCK), "payment none, fulfillment rejected"),
    ("every_order_ends", but("order", STRANGER, ServiceState("early_scheduled", 0)), "order early_scheduled"),
    ("completed_is_whole", but("inventory", DONE), "completed, but not sold"),
    (
        "completed_is_whole",
        but("ledger", DONE, money("authorised")),
        "completed, but captured 0 times: 0",
    ),
    ("completed_is_whole", but("carrier", DONE), "completed, but the carrier has not dispatched it"),
    ("others_are_done", loyalty_says(DONE, "granting"), "completed, but loyalty says granting"),
    ("others_are_done", loyalty_says(UNDONE, "granted"), "cancelled, but loyalty says granted"),
    (
        "cancelled_is_undone",
        but("inventory", UNDONE, ServiceState("reserved", units={"apple": 1})),
        "cancelled, but its stock is reserved",
    ),
    (
        "cancelled_is_undone",
        but("ledger", UNDONE, money("authorised", "captured")),
        "cancelled, but its money is not back: authorised, captured",
    ),
    (
        "cancelled_is_undone",
        but("ledger", UNDONE, money("authorised")),
        "cancelled, but its money is not back: authorised",
    ),
    (
        "cancelled_is_undone",
        but("carrier", UNDONE, "booked"),
        "cancelled, but its shipment is booked",
    ),
    (
        "nothing_without_an_order",
        but("ledger", STRANGER, money("authorised", "captured")),
        "unknown to order_svc, but its money is not back",
    ),
    ("nothing_without_an_order", but("order", STUCK), "unknown to order_svc, but its stock is reserved"),
    (
        "manual_case_stands_still",
        but("inventory", STUCK, ServiceState("released", units={"apple": 4})),
        "for a person to settle, but no longer reserved",
    ),
    (
        "manual_case_stands_still",
        replace(but("fulfillment", DONE, ServiceState("dispatch_failed")), ledger={}),
        "for a person to settle because of its shipment, but not charged",
    ),
    (
        "payment_matches_the_provider",
        but("payment", DONE, ServiceState("captured", 400)),
        "captured says payment, but the provider has 500",
    ),
    (
        "payment_matches_the_provider",
        but("payment", STUCK, ServiceState("declined", 500)),
        "not charged says payment, but the provider has money of the customer",
    ),
    (
        "shipment_matches_the_carrier",
        but("fulfillment", DONE, ServiceState("scheduled")),
        "scheduled says fulfilment, dispatched says the carrier",
    ),
    ("customer_is_notified", but("notification", UNDONE), "cancelled, but the customer was not notified"),
    (
        "customer_is_notified",
        but("notification", DONE, ServiceState("notified", ending="cancelled")),
        "confirmed, but notified as cancelled",
    ),
    (
        "nothing_waits",
        replace(SOUND, backlogs=(Backlog("order", 0, 1),)),
        "order has 0 facts and 1 calls left",
    ),
    ("tracker_agrees", but("sagas", DONE), "COMPLETED by the services' books, nothing by the tracker's"),
    (
        "tracker_agrees",
        but("sagas", UNDONE, SeenSaga("COMPENSATING")),
        "CANCELLED by the services' books, COMPENSATING by the tracker's",
    ),
]


def test_sound_books_violate_nothing() -> None:
    assert [str(violation) for violation in violations(SOUND)] == []
    assert [str(violation) for violation in violations(loyalty_says(DONE, "granted"))] == []


@pytest.mark.parametrize(("name", "books", "what"), BREAKAGES)
def test_an_invariant_is_violated(name: str, books: Snapshot, what: str) -> None:
    found = [violation for violation in violations(books) if violation.invariant.name == name]
    assert any(what in violation.what for violation in found), [str(violation) for violation in found]


def test_every_invariant_has_a_breakage_and_a_sentence() -> None:
    assert {rule.name for rule in INVARIANTS} == {name for name, _, _ in BREAKAGES}
    assert all(rule.sentence.endswith(".") for rule in INVARIANTS)


def test_a_violation_names_its_order() -> None:
    (violation,) = violations(but("notification", UNDONE))
    assert (
        str(violation)
        == f"customer_is_notified: order {UNDONE}: cancelled, but the customer was not notified"
    )


@pytest.mark.parametrize(("name", "books", "what"), BREAKAGES)
def test_of_orders_still_moving_only_what_always_holds_is_asked(
    name: str, books: Snapshot, what: str
) -> None:
    still_moving = set(books_by_order(books))
    found = {violation.invariant.name for violation in violations(books, still_moving)}
    always = next(rule.always for rule in INVARIANTS if rule.name == name)
    assert (name in found) == always, what


def refunded(settled_by: str | None, *kinds: str) -> Snapshot:
    """Payment says that it gave the money back; these are the provider's movements."""
    books = but("payment", UNDONE, ServiceState("refunded", 500, settled_by=settled_by))
    return but("ledger", UNDONE, money(*kinds), books=books)


def cancelled(settled_by: str | None, carrier: str) -> Snapshot:
    """Fulfilment says that it cancelled the shipment, and so says the carrier."""
    books = but("fulfillment", UNDONE, ServiceState("cancelled", settled_by=settled_by))
    return but("carrier", UNDONE, carrier, books=books)


def dispatched(settled_by: str | None, carrier: str) -> Snapshot:
    books = but("fulfillment", DONE, ServiceState("dispatched", settled_by=settled_by))
    return but("carrier", DONE, carrier, books=books)


def names(books: Snapshot) -> set[str]:
    return {violation.invariant.name for violation in violations(books)}


NOT_BACK = {"cancelled_is_undone", "payment_matches_the_provider"}
STILL_BOOKED = {"cancelled_is_undone", "shipment_matches_the_carrier"}
NOT_GONE = {"completed_is_whole", "shipment_matches_the_carrier"}


@pytest.mark.parametrize(
    ("by_nobody", "by_a_person", "what"),
    [
        (refunded(None, "authorised"), refunded("grace", "authorised"), NOT_BACK),
        (refunded(None, "authorised", "captured"), refunded("grace", "authorised", "captured"), NOT_BACK),
        (cancelled(None, "booked"), cancelled("grace", "booked"), STILL_BOOKED),
        (dispatched(None, "booked"), dispatched("grace", "booked"), NOT_GONE),
        (dispatched(None, "cancelled"), dispatched("grace", "cancelled"), NOT_GONE),
    ],
)
def test_what_a_person_settled_outside_is_excused(
    by_nobody: Snapshot, by_a_person: Snapshot, what: set[str]
) -> None:
    assert names(by_nobody) == what
    assert names(by_a_person) == set()


@pytest.mark.parametrize(
    "books",
    [
        refunded("grace", "authorised", "captured", "refunded"),
        cancelled("grace", "cancelled"),
        dispatched("grace", "dispatched"),
    ],
)
def test_what_was_settled_may_have_been_done_all_the_same(books: Snapshot) -> None:
    assert names(books) == set()


SETTLED_MONEY = refunded("grace", "authorised", "captured")


@pytest.mark.parametrize(
    ("books", "what"),
    [
        (refunded("grace", "authorised", "captured", "captured"), {"money_moves_once"}),
        (
            but("inventory", UNDONE, ServiceState("reserved", units={}), books=SETTLED_MONEY),
            {"cancelled_is_undone"},
        ),
        (but("carrier", UNDONE, "booked", books=SETTLED_MONEY), {"cancelled_is_undone"}),
        (but("ledger", UNDONE, money("authorised"), books=cancelled("grace", "booked")), NOT_BACK),
        (cancelled("grace", "dispatched"), {*STILL_BOOKED, "nothing_leaves_early"}),
        (
            but("ledger", DONE, money("authorised"), books=dispatched("grace", "booked")),
            {"completed_is_whole", "payment_matches_the_provider"},
        ),
        # Only what was settled: not a row that merely has a name on it.
        (
            but("payment", DONE, ServiceState("captured", 400, settled_by="grace")),
            {"payment_matches_the_provider"},
        ),
        (
            but("payment", STUCK, ServiceState("declined", 500, settled_by="grace")),
            {"payment_matches_the_provider"},
        ),
        (
            but(
                "carrier",
                STUCK,
                "booked",
                books=but("fulfillment", STUCK, ServiceState("rejected", settled_by="grace")),
            ),
            {"shipment_matches_the_carrier"},
        ),
    ],
)
def test_nothing_but_what_a_person_settled_is_excused(books: Snapshot, what: set[str]) -> None:
    assert what <= names(books)


# Released, and nobody told order_svc: the tracker has called it overdue.
LATE = replace(
    but("order", UNDONE, ServiceState("withdrawn", 500), books=but("notification", UNDONE)),
    sagas={
        DONE: SeenSaga("COMPLETED"),
        UNDONE: SeenSaga("NEEDS_MANUAL"),
        STUCK: SeenSaga("NEEDS_MANUAL"),
    },
)


def test_an_order_that_is_late_has_not_ended() -> None:
    (violation,) = violations(LATE)
    assert (violation.invariant.name, violation.order_id) == ("every_order_ends", UNDONE)
    assert violations(LATE, still_moving={UNDONE}) == []


def test_an_order_that_was_late_leaves_that_state_when_it_ends() -> None:
    (violation,) = violations(replace(SOUND, sagas=LATE.sagas))
    assert (
        str(violation)
        == f"tracker_agrees: order {UNDONE}: CANCELLED by the services' books, NEEDS_MANUAL by the tracker's"
    )


@pytest.mark.parametrize(
    ("order", "payment", "shipment", "verdict"),
    [
        ("confirmed", "captured", "dispatched", "COMPLETED"),
        ("confirmed", "captured", "dispatching", "UNFINISHED"),
        ("confirmed", "captured", "dispatch_failed", "NEEDS_MANUAL"),
        ("cancelled", "declined", "none", "CANCELLED"),
        ("placed", "held", "none", "AWAITING_APPROVAL"),
        ("placed", "refund_failed", "rejected", "NEEDS_MANUAL"),
        ("withdrawn", "captured", "cancel_failed", "NEEDS_MANUAL"),
        ("withdrawn", "held", "none", "UNFINISHED"),
        ("early_undone", "declined", "none", "UNFINISHED"),
    ],
)
def test_a_verdict_is_what_the_services_say(
    order: str, payment: str, shipment: str, verdict: Verdict
) -> None:
    states = {"order": order, "payment": payment, "fulfillment": shipment}
    books = Books({service: ServiceState(states.get(service, "none")) for service in SERVICES})
    assert books.verdict == verdict


def test_an_order_that_was_forgotten_is_judged_by_nothing_but_the_stock_that_it_took() -> None:
    gone = SOUND
    for book in (*SERVICES, "sagas"):
        gone = but(book, DONE, books=gone)
    assert {found.order_id for found in violations(gone)} == {None, DONE}
    left = replace(gone, forgotten=frozenset({DONE}))
    [units] = violations(left)
    assert units.invariant.name == "stock_has_its_orders"
    assert violations(replace(left, sold_before=({"apple": 2},))) == []
