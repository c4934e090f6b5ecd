"""What order_svc publishes: an order's beginning, its pivot and its end."""

from events.facts.base import (
    AmountMinor,
    Currency,
    Fact,
    Line,
    Lines,
    OrderCurrency,
    Quantity,
    Reason,
    Sku,
    SupersededFact,
    Token,
)


class OrderCreated(Fact, wire="order.created.v2", from_outside=True):
    """A customer wants these lines. Published by order_svc, or by an outside publisher allowed to."""

    customer: Token
    currency: OrderCurrency
    payment_token: Token
    lines: Lines

    @property
    def amount_minor(self) -> int:
        """What all lines cost together, in minor units of the currency."""
        return sum(line.amount_minor for line in self.lines)


class OrderCreatedV1(SupersededFact, wire="order.created.v1", from_outside=True):
    """The first shape of `order.created`: one SKU, a quantity and an amount."""

    customer: Token
    sku: Sku
    quantity: Quantity
    amount_minor: AmountMinor
    currency: OrderCurrency = "EUR"
    payment_token: Token

    def upcast(self) -> OrderCreated:
        """The same order with its one SKU as its one line."""
        line = Line(sku=self.sku, quantity=self.quantity, amount_minor=self.amount_minor)
        return OrderCreated(
            order_id=self.order_id,
            customer=self.customer,
            currency=self.currency,
            payment_token=self.payment_token,
            lines=(line,),
        )


class OrderConfirmed(Fact, wire="order.confirmed.v1"):
    """The pivot: stock, money and shipment are certain, and from here it only goes forward."""

    customer: Token
    amount_minor: AmountMinor
    currency: Currency


class OrderWithdrawn(Fact, wire="order.withdrawn.v1"):
    """Nobody wants this order any more; whoever did something for it undoes it, from the far end."""

    reason: Reason


class OrderCancelled(Fact, wire="order.cancelled.v1"):
    """The order ended without effect: nothing reserved, nothing charged, nothing shipped."""

    customer: Token
    reason: Reason
