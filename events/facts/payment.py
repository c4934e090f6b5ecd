"""What payment_svc publishes about an order's money."""

from typing import Literal

from events.facts.base import AmountMinor, Currency, Fact, Lines, Note, Person, Reason, SupersededFact, Token

UndoneBy = Literal["nothing_charged", "void", "refund", "credit_note", "person"]


class PaymentHeld(Fact, wire="payment.held.v1"):
    """The amount is above the limit: a person has to approve it first."""

    amount_minor: AmountMinor
    currency: Currency
    limit_minor: AmountMinor


class PaymentApproved(Fact, wire="payment.approved.v1"):
    """A person lets a held payment go ahead."""

    by: Person
    note: Note


class PaymentPending(Fact, wire="payment.pending.v1"):
    """The provider is still working on it: whether the customer has paid will be known later."""

    reason: Reason


class PaymentCaptured(Fact, wire="payment.captured.v1"):
    """The customer has paid. Carries what fulfilment needs of the order."""

    customer: Token
    lines: Lines
    amount_minor: AmountMinor
    currency: Currency


class PaymentDeclined(Fact, wire="payment.declined.v1"):
    """The customer was not charged, nor ever will be; `by` whom it was rejected, if by a person."""

    reason: Reason
    by: Person | None = None
    note: Note | None = None


class PaymentRefunded(Fact, wire="payment.refunded.v2"):
    """The customer has no less money than before; `undone_by` says by which means, `settled_by` by whom."""

    undone_by: UndoneBy
    reason: Reason
    settled_by: Person | None = None


class PaymentRefundedV1(SupersededFact, wire="payment.refunded.v1"):
    """The first shape of `payment.refunded`: only payment itself could give the money back."""

    undone_by: Literal["nothing_charged", "void", "refund", "credit_note"]
    reason: Reason

    def upcast(self) -> PaymentRefunded:
        """The same fact, settled by nobody."""
        return PaymentRefunded(order_id=self.order_id, undone_by=self.undone_by, reason=self.reason)


class PaymentRefundPending(Fact, wire="payment.refund_pending.v1"):
    """What is to be given back is neither back nor certainly coming: the provider will say so later."""

    reason: Reason


class PaymentRefundReversed(Fact, wire="payment.refund_reversed.v1", case=True):
    """A refund failed after it was certain, and published: a person has to settle it, whatever has ended."""

    reason: Reason


class PaymentDisputed(Fact, wire="payment.disputed.v1"):
    """The customer's bank took the money back, or is about to: that is argued out at the provider's."""

    reason: Reason


class PaymentRefundFailed(Fact, wire="payment.refund_failed.v1", case=True):
    """Neither void nor refund nor credit note worked: a person has to settle it."""

    reason: Reason
