"""What order_svc makes of each fact and command. It alone decides how an order ends.

    a POST, order.created  -> recorded (and published, if it came as a POST)
    shipment_scheduled     -> order.confirmed: the pivot, from here only forward
    stock_rejected,
    stock_released         -> order.cancelled: nothing is left to undo
    a cancellation,
    saga.timed_out         -> order.withdrawn, unless it is confirmed: the chain runs back

Facts may overtake `order.created` of an outside publisher; they are remembered and applied to it. It may
also never come here: a withdrawal is not put off until it does. Its tombstone lets the chain run back and the
order end, and is what `order.created` meets if it comes after all. An order is what it began as: a later
`order.created` of it that says anything else contradicts that.
"""

from dataclasses import dataclass, replace
from typing import Literal, Never, assert_never
from uuid import UUID

from events.decision import Command, Contradiction, Decision
from events.facts.base import Currency, Line, Lines, Token, content_of, contradict
from events.facts.fulfillment import ShipmentScheduled
from events.facts.inventory import StockRejected, StockReleased
from events.facts.order import OrderCancelled, OrderConfirmed, OrderCreated, OrderWithdrawn
from events.facts.saga import SagaTimedOut

Subscribes = OrderCreated | ShipmentScheduled | StockRejected | StockReleased | SagaTimedOut
Publishes = OrderCreated | OrderConfirmed | OrderWithdrawn | OrderCancelled


class PlaceOrder(Command):
    """A customer's POST. `fingerprint` identifies its body, to tell a retry from a different order.

    `client` is who placed it, where that is known.
    """

    customer: Token
    currency: Currency
    payment_token: Token
    lines: Lines
    fingerprint: str
    client: str | None = None


class CancelOrder(Command):
    """The customer wants it no more."""


@dataclass(frozen=True, slots=True)
class Order:
    """One order. The `early_` states hold what overtook `order.created`; they know nothing else yet.

    One that is withdrawn or cancelled without having begun here is a tombstone: `customer` may be known from
    `saga.timed_out`. Only an older release leaves an order `early_timed_out`, instead of withdrawing it.
    `content` is that of the `order.created` it began with; None of an order of an older release. `client` is
    who placed it over HTTP, where that is known: no other client's token sees it.
    """

    order_id: UUID
    status: Literal[
        "early_scheduled",
        "early_timed_out",
        "early_undone",
        "placed",
        "confirmed",
        "withdrawn",
        "cancelled",
    ]
    customer: str | None = None
    currency: str | None = None
    lines: tuple[Line, ...] = ()
    amount_minor: int = 0
    reason: str | None = None
    fingerprint: str | None = None
    content: int | None = None
    client: str | None = None

    @property
    def begun(self) -> bool:
        """Whether its `order.created` has been received."""
        return self.currency is not None


Decided = Decision[Order | None, Publishes, Never]


def decide(
    order: Order | None, message: Subscribes | PlaceOrder | CancelOrder
) -> Decision[Order | None, Publishes, Never]:
    match message:
        case PlaceOrder() | OrderCreated():
            return place(order, message)
        case ShipmentScheduled():
            return confirm(order, message.order_id)
        case StockRejected() | StockReleased():
            return cancel(order, message.order_id, message.reason)
        case SagaTimedOut():
            return withdraw(order, message.order_id, "timed_out", message.customer)
        case CancelOrder():
            return Decision(None) if order is None else withdraw(order, order.order_id, "customer_cancelled")
        case _:
            assert_never(message)


def place(order: Order | None, wanted: PlaceOrder | OrderCreated) -> Decided:
    created = wanted if isinstance(wanted, OrderCreated) else created_by(wanted)
    content = content_of(created)
    if order is not None and order.begun:
        if created is wanted and contradict(order.content, content):
            raise Contradiction(
                f"order {order.order_id} began with another order.created; it is {order.status}"
            )
        return Decision(order)
    placed = Order(
        order_id=created.order_id,
        status="placed",
        customer=created.customer,
        currency=created.currency,
        lines=created.lines,
        amount_minor=created.amount_minor,
        fingerprint=wanted.fingerprint if isinstance(wanted, PlaceOrder) else None,
        content=content,
        client=wanted.client if isinstance(wanted, PlaceOrder) else None,
    )
    answer = catch_up(placed, order)
    return answer if created is wanted else replace(answer, facts=(created, *answer.facts))


def created_by(wanted: PlaceOrder) -> OrderCreated:
    return OrderCreated(
        order_id=wanted.order_id,
        customer=wanted.customer,
        currency=wanted.currency,
        payment_token=wanted.payment_token,
        lines=wanted.lines,
    )


def catch_up(placed: Order, early: Order | None) -> Decided:
    """Apply to a newly placed order what had overtaken its creation."""
    match early:
        case Order(status="early_scheduled"):
            return confirm(placed, placed.order_id)
        case Order(status="early_timed_out"):
            return withdraw(placed, placed.order_id, "timed_out")
        case Order(status="early_undone", reason=reason):
            return cancel(placed, placed.order_id, reason or "undone")
        case Order(status="withdrawn" | "cancelled" as ended, reason=reason):
            return Decision(replace(placed, status=ended, reason=reason))
        case _:
            return Decision(placed)


def confirm(order: Order | None, order_id: UUID) -> Decided:
    if order is None:
        return Decision(Order(order_id, "early_scheduled"))
    if order.status != "placed":
        return Decision(order)
    confirmed = OrderConfirmed(
        order_id=order_id,
        customer=order.customer or "",
        amount_minor=order.amount_minor,
        currency=order.currency or "",
    )
    return Decision(replace(order, status="confirmed"), facts=(confirmed,))


def withdraw(order: Order | None, order_id: UUID, reason: str, customer: str | None = None) -> Decided:
    """Also what never began here: whoever did something for it is to undo it all the same."""
    order = order or Order(order_id, "early_timed_out")
    if not order.begun:
        order = replace(order, customer=order.customer or customer)
    match order.status:
        case "placed" | "early_scheduled" | "early_timed_out":
            withdrawn = OrderWithdrawn(order_id=order_id, reason=reason)
            return Decision(replace(order, status="withdrawn", reason=reason), facts=(withdrawn,))
        case "early_undone":
            return cancel(order, order_id, order.reason or reason)
        case "confirmed" | "withdrawn" | "cancelled":
            return Decision(order)


def cancel(order: Order | None, order_id: UUID, reason: str) -> Decided:
    order = order or Order(order_id, "early_undone", reason=reason)
    if order.status in ("confirmed", "cancelled"):
        return Decision(order)
    if order.customer is None:
        # Whom to tell, `order.created` says, or `saga.timed_out` when that does not come.
        undone = order.reason if order.status == "withdrawn" else reason
        return Decision(Order(order_id, "early_undone", reason=undone))
    reason = order.reason or reason
    cancelled = OrderCancelled(order_id=order_id, customer=order.customer or "", reason=reason)
    return Decision(replace(order, status="cancelled", reason=reason), facts=(cancelled,))
