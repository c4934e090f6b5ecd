"""What payment_svc states about an order's money."""

from typing import Literal

from events.facts.base import AmountMinor, Currency, Fact, Lines, Reason, Token

UndoneBy = Literal["nothing_charged", "void", "refund", "credit_note"]


class PaymentHeld(Fact, wire="payment.held.v1"):
    """The amount is above the limit: a person has to approve it first."""

    amount_minor: AmountMinor
    currency: Currency
    limit_minor: AmountMinor


class PaymentCaptured(Fact, wire="payment.captured.v1"):
    """The customer has paid. Carries what fulfilment needs of the order."""

    customer: Token
    lines: Lines
    amount_minor: AmountMinor
    currency: Currency


class PaymentDeclined(Fact, wire="payment.declined.v1"):
    """The customer was not charged, nor ever will be for this order."""

    reason: Reason


class PaymentRefunded(Fact, wire="payment.refunded.v1"):
    """The customer has no less money than before; `undone_by` says by which means."""

    undone_by: UndoneBy
    reason: Reason


class PaymentRefundFailed(Fact, wire="payment.refund_failed.v1"):
    """Neither void nor refund nor credit note worked: a person has to settle it."""

    reason: Reason
