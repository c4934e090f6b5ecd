"""What inventory_svc publishes about the stock behind an order."""

from events.facts.base import AmountMinor, Currency, Fact, Lines, Reason, Sku, Token


class StockReserved(Fact, wire="inventory.stock_reserved.v1"):
    """Every line is set aside. Carries what payment and fulfilment need of the order."""

    customer: Token
    currency: Currency
    payment_token: Token
    lines: Lines
    amount_minor: AmountMinor


class StockRejected(Fact, wire="inventory.stock_rejected.v1"):
    """Not every line could be set aside, so none was."""

    reason: Reason
    skus: tuple[Sku, ...]


class StockReleased(Fact, wire="inventory.stock_released.v1"):
    """Nothing is set aside for this order, nor ever will be."""

    reason: Reason


class StockSold(Fact, wire="inventory.stock_sold.v1"):
    """What was set aside for this order is sold, now that it is confirmed."""
