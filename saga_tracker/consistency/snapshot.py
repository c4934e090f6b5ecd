"""What was read of the whole system, as plain values: all of it, or as much of it as there is to ask.

There is no I/O here. `make check` and the drills fill a Snapshot from every service's own tables and the
outside world's ledgers; reconciliation fills one with what the services answer of a few orders. No two of
them can be read at one instant, so read effects before their causes: the outside world first, then notices,
shipments, payments, stock, orders.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal, NamedTuple
from uuid import UUID

from events.runtime.definition import installed_services
from events.service import Service, name_of
from saga_tracker.steps import SERVICES

# A service by its name, or the provider.
Party = str
PROVIDER: Party = "provider"
PARTIES: tuple[Party, ...] = (*SERVICES, PROVIDER)
NOT_THERE = "none"

Verdict = Literal["COMPLETED", "CANCELLED", "NEEDS_MANUAL", "AWAITING_APPROVAL", "UNFINISHED"]


@dataclass(frozen=True, slots=True)
class ServiceState:
    """What a service's own table says of one order; `none` where it has no row.

    `ending`: what a customer was notified of. `settled_by`: who did outside what the service could not do.
    `reversed`: what it had published as undone was not.
    """

    status: str = NOT_THERE
    amount_minor: int | None = None
    currency: str | None = None
    ending: str | None = None
    settled_by: str | None = None
    reversed: bool | None = None
    units: Mapping[str, int] | None = None


@dataclass(frozen=True, slots=True)
class StockRow:
    sku: str
    stocked: int
    available: int
    reserved: int
    sold: int


@dataclass(frozen=True, slots=True)
class Movement:
    """An entry of the payment provider's ledger: authorised, captured, voided, refunded, credited."""

    kind: str
    amount_minor: int
    currency: str = ""


@dataclass(frozen=True, slots=True)
class Awaited:
    """Any one of `facts` is waited for from `service`, since `because_of`; names without versions."""

    service: str
    facts: tuple[str, ...]
    because_of: str


@dataclass(frozen=True, slots=True)
class SeenSaga:
    """The tracker's view of one order.

    `retells`: a person has asked notification to try again, so that it may be at it after the end.
    """

    state: str
    waits: tuple[Awaited, ...] = ()
    retells: bool = False


@dataclass(frozen=True, slots=True)
class Backlog:
    """How much of a service's work still waits: facts to publish, calls to carry out."""

    service: str
    outbox: int
    calls: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that was read, by order. What was not asked is not there, or None.

    `carrier` has each shipment's status in the carrier's books: booked, dispatched, cancelled, closed.
    `forgotten` are orders that ended long ago, of which a service or the tracker has deleted its row;
    `sold_before` is what the stock still counts of them.
    """

    states: Mapping[str, Mapping[UUID, ServiceState]] = field(default_factory=dict)
    ledger: Mapping[UUID, Sequence[Movement]] | None = None
    carrier: Mapping[UUID, str] = field(default_factory=dict)
    sagas: Mapping[UUID, SeenSaga] | None = None
    stock: tuple[StockRow, ...] = ()
    backlogs: tuple[Backlog, ...] = ()
    forgotten: Collection[UUID] = frozenset()
    sold_before: tuple[Mapping[str, int], ...] = ()

    @property
    def answered(self) -> frozenset[Party]:
        """Whose books are in it."""
        provider: frozenset[Party] = frozenset() if self.ledger is None else frozenset({PROVIDER})
        return provider | frozenset(self.states)

    def of(self, order_id: UUID) -> "Books":
        """All that is in it of one order."""
        return Books(
            {service: states.get(order_id, NOTHING) for service, states in self.states.items()},
            None if self.ledger is None else Ledger(self.ledger.get(order_id, ())),
            self.carrier.get(order_id, NOT_THERE),
            None if self.sagas is None else self.sagas.get(order_id),
        )


NOTHING = ServiceState()


@dataclass(frozen=True, slots=True)
class Ledger:
    """The provider's movements of one order, in minor units."""

    movements: Sequence[Movement] = ()

    def times(self, *kinds: str) -> int:
        """How many movements there are of these kinds."""
        return sum(movement.kind in kinds for movement in self.movements)

    def sum_minor(self, *kinds: str) -> int:
        return sum(movement.amount_minor for movement in self.movements if movement.kind in kinds)

    @property
    def captures(self) -> int:
        return self.times("captured")

    @property
    def returns(self) -> int:
        """How often money was given back, by whatever means."""
        return self.times("refunded", "credited")

    @property
    def moved_too_often(self) -> bool:
        """An order is charged at most once, and its money goes back at most as often."""
        return self.captures > 1 or self.returns > self.captures

    @property
    def charged_minor(self) -> int:
        """What the customer has paid and not got back."""
        return self.sum_minor("captured") - self.sum_minor("refunded", "credited")

    @property
    def set_aside(self) -> int:
        """How many authorisations were neither captured nor voided."""
        return self.times("authorised") - self.times("captured", "voided")

    @property
    def currency(self) -> str:
        return "/".join(sorted({movement.currency for movement in self.movements}))

    @property
    def money_is_back(self) -> bool:
        """Nothing is charged, and nothing authorised is still set aside on the customer's card."""
        return self.charged_minor == 0 and self.set_aside <= 0

    def __str__(self) -> str:
        aside = f", and {self.set_aside} authorised" if self.set_aside > 0 else ""
        return f"{sum_of(self.charged_minor, self.currency)} charged{aside}"


@dataclass(slots=True)
class Books:
    """What all services, the outside world and the tracker hold of one order.

    Of `states` those that were asked; `ledger` is None where nobody asked for it.
    """

    states: Mapping[str, ServiceState] = field(default_factory=dict)
    ledger: Ledger | None = field(default_factory=Ledger)
    parcel: str = NOT_THERE
    saga: SeenSaga | None = None

    @property
    def order(self) -> ServiceState:
        return self.states.get("order", NOTHING)

    @property
    def reservation(self) -> ServiceState:
        return self.states.get("inventory", NOTHING)

    @property
    def payment(self) -> ServiceState:
        return self.states.get("payment", NOTHING)

    @property
    def shipment(self) -> ServiceState:
        return self.states.get("fulfillment", NOTHING)

    @property
    def notice(self) -> ServiceState:
        return self.states.get("notification", NOTHING)

    @property
    def money(self) -> Ledger:
        """The ledger; an empty one where nobody asked for it."""
        return self.ledger or Ledger()

    @property
    def status(self) -> str:
        """What order_svc says; `unknown` when it has no order under this id, or only what overtook one."""
        status = self.order.status
        return "unknown" if status == NOT_THERE or status.startswith("early_") else status

    @property
    def paid_back_by_a_person(self) -> bool:
        """A person gave back by other means what the provider would not: its ledger still has all of it."""
        payment, money = self.payment, self.money
        settled = payment.status == "refunded" and payment.settled_by is not None
        return settled and money.returns == 0 and money.charged_minor in (0, payment.amount_minor)

    @property
    def cancelled_by_a_person(self) -> bool:
        """Nothing is shipped, although the carrier may still have the booking."""
        return self.shipment.status == "cancelled" and self.shipment.settled_by is not None

    @property
    def dispatched_by_a_person(self) -> bool:
        """The goods are on their way, and the carrier may know nothing of it."""
        return self.shipment.status == "dispatched" and self.shipment.settled_by is not None

    @property
    def verdict(self) -> Verdict:
        """How the order ended, by what the services themselves say; UNFINISHED when it has not."""
        shipment, payment = self.shipment.status, self.payment.status
        match self.status:
            case "cancelled" if payment == "refund_failed" and self.payment.reversed:
                # The refund had been certain, and did not come after all.
                return "NEEDS_MANUAL"
            case "cancelled" if shipment == "cancel_failed" and self.shipment.reversed:
                # The label's refund had been taken on, and was rejected after all.
                return "NEEDS_MANUAL"
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
    known = (*snapshot.states.values(), snapshot.ledger or {}, snapshot.carrier, snapshot.sagas or {})
    order_ids = dict.fromkeys(chain.from_iterable(known))
    return {order_id: snapshot.of(order_id) for order_id in order_ids if order_id not in snapshot.forgotten}


def statuses_of(book: Books) -> dict[str, str]:
    """Every service's own status of one order, by service; `none` where it has no row."""
    return {service: book.states.get(service, NOTHING).status for service in SERVICES}


def sum_of(amount_minor: int | None, currency: str | None) -> str:
    return f"{amount_minor or 0} {currency or ''}".strip()


# What a service's own status of an order says, by its `service.py`: which facts it has published, and whether
# it is done.


def _ends_of(service: Service, statuses: tuple[str, ...]) -> tuple[str, ...]:
    """Who joined a system that ran already knows nothing of the orders before."""
    return statuses if service.since is None else (*statuses, NOT_THERE)


# In which statuses each service is done with an order that completed, and with one that was cancelled.
DONE = {service.name: _ends_of(service, service.statuses_done) for service in installed_services()}
UNDONE = {service.name: _ends_of(service, service.statuses_undone) for service in installed_services()}
# The statuses in which a service has published a fact, or has gone on from there.
STATUSES_AFTER: Mapping[str, tuple[str, ...]] = {
    name_of(kind): statuses
    for service in installed_services()
    for kind, statuses in service.statuses_after.items()
}
# A status that may have come about without the fact: whoever is cancelled need not have been withdrawn.
_NO_PROOF = {("order.withdrawn", "cancelled")}
_ORDERED = ("placed", "confirmed", "withdrawn", "cancelled")


class Proof(NamedTuple):
    """A fact that was published, as a state proves. `ending`: what a customer was notified of."""

    fact: str
    ending: str | None = None


def proofs(states: Mapping[str, ServiceState]) -> list[Proof]:
    """The facts that these services have published, as far as their states of one order show it."""
    found = [
        Proof(fact, state.ending)
        for fact, statuses in STATUSES_AFTER.items()
        for service, state in states.items()
        if fact.startswith(f"{service}.")
        and state.status in statuses
        and (fact, state.status) not in _NO_PROOF
    ]
    if "order" in states and states["order"].status in _ORDERED:
        found.insert(0, Proof("order.created"))
    return found
