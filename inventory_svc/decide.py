"""What inventory makes of each fact: reserve every line or none, release, sell.

order.created        -> stock_reserved | stock_rejected
payment.declined,
payment.refunded     -> stock_released   (or a fence, when nothing was reserved yet)
order.confirmed      -> stock_sold
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, Never, assert_never
from uuid import UUID

from events.decision import CausalityViolated, Contradiction, Decision
from events.facts.base import content_of, contradict
from events.facts.inventory import StockRejected, StockReleased, StockReserved, StockSold
from events.facts.order import OrderConfirmed, OrderCreated
from events.facts.payment import PaymentDeclined, PaymentRefunded

Subscribes = OrderCreated | PaymentDeclined | PaymentRefunded | OrderConfirmed
Publishes = StockReserved | StockRejected | StockReleased | StockSold


@dataclass(frozen=True, slots=True)
class Reservation:
    """What one order has set aside. `fenced`: undone before it was done, so never to be reserved.

    `content` is that of the `order.created` it began with; None where there was none, or of an older release.
    """

    order_id: UUID
    status: Literal["reserved", "rejected", "released", "sold", "fenced"]
    units: Mapping[str, int]
    content: int | None = None


@dataclass(frozen=True, slots=True)
class Stock:
    """Where the units of one SKU are."""

    sku: str
    available: int
    reserved: int
    sold: int

    def reserve(self, quantity: int) -> "Stock":
        return replace(self, available=self.available - quantity, reserved=self.reserved + quantity)

    def release(self, quantity: int) -> "Stock":
        return replace(self, available=self.available + quantity, reserved=self.reserved - quantity)

    def sell(self, quantity: int) -> "Stock":
        return replace(self, reserved=self.reserved - quantity, sold=self.sold + quantity)


@dataclass(frozen=True, slots=True)
class Shelf:
    """One order's reservation, if it has one, and the stock of every SKU it concerns."""

    reservation: Reservation | None
    stock: Mapping[str, Stock]


def decide(shelf: Shelf, message: Subscribes) -> Decision[Shelf, Publishes, Never]:
    match message:
        case OrderCreated():
            return reserve(shelf, message)
        case PaymentDeclined() | PaymentRefunded():
            return release(shelf, message.order_id, message.reason)
        case OrderConfirmed():
            return sell(shelf, message.order_id)
        case _:
            assert_never(message)


def reserve(shelf: Shelf, order: OrderCreated) -> Decision[Shelf, Publishes, Never]:
    held, content = shelf.reservation, content_of(order)
    if held is not None:
        if contradict(held.content, content):
            raise Contradiction(
                f"order {order.order_id} began with another order.created; it is {held.status}"
            )
        return Decision(shelf)
    wanted: Counter[str] = Counter()
    for line in order.lines:
        wanted[line.sku] += line.quantity
    unknown = tuple(sku for sku in sorted(wanted) if sku not in shelf.stock)
    short = tuple(
        sku for sku in sorted(wanted) if sku in shelf.stock and shelf.stock[sku].available < wanted[sku]
    )
    if unknown or short:
        rejected = Reservation(order.order_id, "rejected", {}, content)
        reason = "unknown_sku" if unknown else "out_of_stock"
        return Decision(
            replace(shelf, reservation=rejected),
            facts=(StockRejected(order_id=order.order_id, reason=reason, skus=unknown or short),),
        )
    reserved = StockReserved(
        order_id=order.order_id,
        customer=order.customer,
        currency=order.currency,
        payment_token=order.payment_token,
        lines=order.lines,
        amount_minor=order.amount_minor,
    )
    stock = {sku: shelf.stock[sku].reserve(quantity) for sku, quantity in wanted.items()}
    return Decision(
        Shelf(Reservation(order.order_id, "reserved", dict(wanted), content), {**shelf.stock, **stock}),
        facts=(reserved,),
    )


def release(shelf: Shelf, order_id: UUID, reason: str) -> Decision[Shelf, Publishes, Never]:
    released = StockReleased(order_id=order_id, reason=reason)
    held = shelf.reservation
    if held is None:
        return Decision(replace(shelf, reservation=Reservation(order_id, "fenced", {})), facts=(released,))
    match held.status:
        case "reserved":
            stock = {sku: shelf.stock[sku].release(quantity) for sku, quantity in held.units.items()}
            returned = Shelf(replace(held, status="released"), {**shelf.stock, **stock})
            return Decision(returned, facts=(released,))
        case "sold":
            raise CausalityViolated("an order that was sold cannot have its payment undone")
        case "rejected" | "released" | "fenced":
            return Decision(shelf)


def sell(shelf: Shelf, order_id: UUID) -> Decision[Shelf, Publishes, Never]:
    held = shelf.reservation
    if held is not None and held.status == "sold":
        return Decision(shelf)
    if held is None or held.status != "reserved":
        found = held.status if held else "none"
        raise CausalityViolated(f"order {order_id} was confirmed, but its reservation here is: {found}")
    stock = {sku: shelf.stock[sku].sell(quantity) for sku, quantity in held.units.items()}
    sold = Shelf(replace(held, status="sold"), {**shelf.stock, **stock})
    return Decision(sold, facts=(StockSold(order_id=order_id),))
