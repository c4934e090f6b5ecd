"""What does not fit together of an order: the tracker's view, the services' answers, the provider's ledger.

Pure. Only sagas that ended or need a person are judged: of one that moves, everyone may know something else.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args
from uuid import UUID

from saga_tracker.projection import State

Service = Literal["order", "inventory", "payment", "fulfillment", "notification"]
Party = Literal["order", "inventory", "payment", "fulfillment", "notification", "provider"]
SERVICES: tuple[Service, ...] = get_args(Service)
PARTIES: tuple[Party, ...] = get_args(Party)

# A saga in one of these states is compared.
COMPARED = (State.COMPLETED, State.CANCELLED, State.NEEDS_MANUAL)
# Whose answers it takes to judge what a party says.
INPUTS: Mapping[Party, frozenset[Party]] = {
    "order": frozenset({"order"}),
    "inventory": frozenset({"inventory"}),
    "payment": frozenset({"payment", "order", "inventory"}),
    "fulfillment": frozenset({"fulfillment"}),
    "notification": frozenset({"notification"}),
    "provider": frozenset({"provider", "payment"}),
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a service says of one order; `none` when it knows nothing of it."""

    status: str = "none"
    amount_minor: int | None = None
    currency: str | None = None
    ending: str | None = None
    settled_by: str | None = None


@dataclass(frozen=True, slots=True)
class Movement:
    """An entry of the provider's ledger: authorised, captured, voided, refunded, credited."""

    kind: str
    amount_minor: int
    currency: str


@dataclass(frozen=True, slots=True)
class Awaited:
    """Any one of `facts` is waited for from `service`, since `because_of`; names without versions."""

    service: str
    facts: tuple[str, ...]
    because_of: str


@dataclass(frozen=True, slots=True)
class SeenSaga:
    """An order as the tracker sees it; `state` is None when no fact of it was read.

    `retells`: a person has asked notification to try again, so that it may be at it after the end.
    """

    order_id: UUID
    state: State | None
    waits: tuple[Awaited, ...] = ()
    retells: bool = False


@dataclass(frozen=True, slots=True)
class Difference:
    """What was expected of a party, and what was found. `about`: status, ending, amount, money, movements."""

    order_id: UUID
    party: Party
    about: str
    expected: str
    found: str


_UNDONE: Mapping[Service, tuple[str, ...]] = {
    "order": ("cancelled",),
    "inventory": ("rejected", "released", "fenced"),
    "payment": ("none", "declined", "refunded", "fenced"),
    "fulfillment": ("none", "rejected", "cancelled", "fenced"),
    # Told after the end, for as long as it takes.
    "notification": ("sending", "notified", "failed"),
}
_DONE: Mapping[Service, tuple[str, ...]] = {
    "order": ("confirmed",),
    "inventory": ("sold",),
    "payment": ("captured",),
    "fulfillment": ("dispatched",),
    "notification": ("notified", "failed"),
}
# The statuses in which a service has stated a fact, or has gone on from there.
STATUSES_AFTER: Mapping[str, tuple[str, ...]] = {
    "order.withdrawn": ("withdrawn", "cancelled"),
    "order.confirmed": ("confirmed",),
    "order.cancelled": ("cancelled",),
    "inventory.stock_reserved": ("reserved", "sold"),
    "inventory.stock_rejected": ("rejected",),
    "inventory.stock_released": ("released", "fenced"),
    "inventory.stock_sold": ("sold",),
    "payment.held": ("held",),
    "payment.approved": (),
    "payment.captured": ("captured",),
    "payment.declined": ("declined",),
    "payment.refunded": ("refunded", "fenced"),
    "payment.refund_failed": ("refund_failed",),
    "fulfillment.shipment_scheduled": ("scheduled", "dispatching", "dispatched", "dispatch_failed"),
    "fulfillment.shipment_rejected": ("rejected",),
    "fulfillment.shipment_cancelled": ("cancelled", "fenced"),
    "fulfillment.shipment_cancel_failed": ("cancel_failed",),
    "fulfillment.shipment_dispatched": ("dispatched",),
    "fulfillment.shipment_dispatch_failed": ("dispatch_failed",),
    "notification.customer_notified": ("notified",),
    "notification.notification_failed": ("failed",),
}
# A status that may have come about without the fact: whoever is cancelled need not have been withdrawn.
_NO_PROOF = {("order.withdrawn", "cancelled")}
_ORDERED = ("placed", "confirmed", "withdrawn", "cancelled")
# While a person is waited for because of this fact, its service stands still in this status.
_STANDS_STILL = {
    "payment.refund_failed": "refund_failed",
    "fulfillment.shipment_cancel_failed": "cancel_failed",
    "fulfillment.shipment_dispatch_failed": "dispatch_failed",
}
_NOT_CHARGED = ("none", "held", "declined", "refunded", "fenced")


class Proof(NamedTuple):
    """A fact that was published, as a state proves. `ending`: what a customer was told of."""

    fact: str
    ending: str | None = None


def proofs(answers: Mapping[Service, Answer]) -> list[Proof]:
    """The facts that these services have published, as far as their states of one order show it."""
    found = [
        Proof(fact, answer.ending)
        for fact, statuses in STATUSES_AFTER.items()
        for service, answer in answers.items()
        if fact.startswith(f"{service}.")
        and answer.status in statuses
        and (fact, answer.status) not in _NO_PROOF
    ]
    if "order" in answers and answers["order"].status in _ORDERED:
        found.insert(0, Proof("order.created"))
    return found


def judged(answered: AbstractSet[Party], asked: AbstractSet[Party]) -> frozenset[Party]:
    """The parties on which `differences` has the last word: whose inputs, if asked, answered."""
    return frozenset(party for party in answered if INPUTS[party] & asked <= answered)


def differences(
    saga: SeenSaga, answers: Mapping[Service, Answer], ledger: Sequence[Movement] | None
) -> Iterator[Difference]:
    """What does not fit. Nothing is said of services not among the `answers`, nor without a ledger."""
    if saga.state is State.COMPLETED:
        yield from _of_ended(saga, answers, _DONE, "confirmed")
    elif saga.state is State.CANCELLED:
        yield from _of_ended(saga, answers, _UNDONE, "cancelled")
    elif saga.state is State.NEEDS_MANUAL:
        yield from _of_manual_case(saga, answers)
    elif saga.state is not None:
        return
    if saga.state is not None:
        yield from _of_amount(saga, answers)
    if ledger is not None:
        yield from _of_money(saga, answers.get("payment"), Ledger.of(ledger))


def _of_ended(
    saga: SeenSaga,
    answers: Mapping[Service, Answer],
    expected: Mapping[Service, tuple[str, ...]],
    ending: str,
) -> Iterator[Difference]:
    for service, answer in answers.items():
        allowed = expected[service]
        if service == "payment" and "inventory" in answers and answers["inventory"].status != "rejected":
            # Stock comes back because of the payment, which therefore knows of the order.
            allowed = tuple(status for status in allowed if status != "none")
        if service == "notification" and saga.retells:
            allowed = (*allowed, "sending")
        if answer.status not in allowed:
            yield Difference(saga.order_id, service, "status", " or ".join(allowed), answer.status)
        elif answer.ending is not None and answer.ending != ending:
            yield Difference(saga.order_id, service, "ending", ending, answer.ending)


def _of_manual_case(saga: SeenSaga, answers: Mapping[Service, Answer]) -> Iterator[Difference]:
    """Whoever is waited for must not have done it already: then its fact is missing."""
    for wait in saga.waits:
        service = next((name for name in answers if name == wait.service), None)
        if service is None:
            continue
        found = answers[service].status
        stands_still = _STANDS_STILL.get(wait.because_of)
        if found in [status for fact in wait.facts for status in STATUSES_AFTER.get(fact, ())]:
            expected = stands_still or f"not there yet: {' or '.join(wait.facts)} was never read"
        elif stands_still is not None and found != stands_still:
            expected = stands_still
        else:
            continue
        yield Difference(saga.order_id, service, "status", expected, found)


def _of_amount(saga: SeenSaga, answers: Mapping[Service, Answer]) -> Iterator[Difference]:
    """Who ordered for so much is charged so much."""
    order, payment = answers.get("order", Answer()), answers.get("payment", Answer())
    if order.currency is None or payment.currency is None:
        return
    ordered, charged = _sum(order.amount_minor, order.currency), _sum(payment.amount_minor, payment.currency)
    if ordered != charged:
        yield Difference(saga.order_id, "payment", "amount", ordered, charged)


@dataclass(frozen=True, slots=True)
class Ledger:
    """The provider's movements of one order, summed up in minor units."""

    captures: int
    returns: int
    charged_minor: int
    set_aside: int
    """How many authorisations were neither captured nor voided."""
    currencies: str

    @classmethod
    def of(cls, movements: Sequence[Movement]) -> "Ledger":
        times: Counter[str] = Counter()
        sums: Counter[str] = Counter()
        for movement in movements:
            times[movement.kind] += 1
            sums[movement.kind] += movement.amount_minor
        return cls(
            captures=times["captured"],
            returns=times["refunded"] + times["credited"],
            charged_minor=sums["captured"] - sums["refunded"] - sums["credited"],
            set_aside=times["authorised"] - times["captured"] - times["voided"],
            currencies="/".join(sorted({movement.currency for movement in movements})),
        )

    @property
    def money_is_back(self) -> bool:
        return self.charged_minor == 0 and self.set_aside <= 0

    def __str__(self) -> str:
        aside = f", and {self.set_aside} authorised" if self.set_aside > 0 else ""
        return f"{_sum(self.charged_minor, self.currencies)} charged{aside}"


def _of_money(saga: SeenSaga, payment: Answer | None, ledger: Ledger) -> Iterator[Difference]:
    if ledger.captures > 1 or ledger.returns > ledger.captures:
        found = f"captured {ledger.captures} times, given back {ledger.returns} times"
        expected = "captured once at most, given back no more often"
        yield Difference(saga.order_id, "provider", "movements", expected, found)
    if saga.state is None:
        if not ledger.money_is_back:
            expected = "nothing charged: no fact of it was read"
            yield Difference(saga.order_id, "provider", "money", expected, str(ledger))
        return
    if payment is None:
        return
    charged = saga.state is State.COMPLETED or (
        saga.state is State.NEEDS_MANUAL and payment.status == "captured"
    )
    if charged:
        expected = f"{_sum(payment.amount_minor, payment.currency or '')} charged"
        if str(ledger) != expected:
            yield Difference(saga.order_id, "provider", "money", expected, str(ledger))
        return
    back = ledger.money_is_back or _settled_outside(payment, ledger)
    if not back and (saga.state is State.CANCELLED or payment.status in _NOT_CHARGED):
        yield Difference(saga.order_id, "provider", "money", "nothing charged", str(ledger))


def _settled_outside(payment: Answer, ledger: Ledger) -> bool:
    """A person gave back by other means what the provider would not: its ledger still has all of it."""
    settled = payment.status == "refunded" and payment.settled_by is not None
    return settled and ledger.returns == 0 and ledger.charged_minor in (0, payment.amount_minor)


def _sum(amount_minor: int | None, currency: str) -> str:
    return f"{amount_minor or 0} {currency}".strip()
