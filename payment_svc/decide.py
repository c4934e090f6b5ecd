"""What payment makes of each fact, command and outcome.

    stock_reserved       -> authorise, then capture -> captured | declined
                            (above the limit: payment.held, until a person approves or rejects)
    shipment_rejected,
    shipment_cancelled   -> void, else refund, else credit note -> refunded, else refund_failed
                            (or a fence, when nothing was begun yet)
    saga.retry_requested,
    saga.settled         -> what failed is tried again; or a person gave the money back: refunded

A call in flight when the order is withdrawn is undone once its outcome is known.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, assert_never
from uuid import UUID

from events.decision import Call, Command, Decision, GaveUp, Outcome
from events.facts.base import AmountMinor, Currency, Line, Note, Person, Token
from events.facts.fulfillment import ShipmentCancelled, ShipmentRejected
from events.facts.inventory import StockReserved
from events.facts.payment import (
    PaymentApproved,
    PaymentCaptured,
    PaymentDeclined,
    PaymentHeld,
    PaymentRefunded,
    PaymentRefundFailed,
    UndoneBy,
)
from events.facts.saga import ApprovalExpired, RetryRequested, Settled

NAME = "payment"
PROVIDER_UNAVAILABLE = "provider_unavailable"
APPROVAL_REJECTED = "approval_rejected"
APPROVAL_EXPIRED = "approval_expired"

# Above which amount a person has to approve, in minor units, by currency. One that the table does not name
# has as many of its own minor units as `default` says: 1000000 is 10000.00 EUR, 1000000 JPY or 1000.000 KWD.
ApprovalLimits = Mapping[str, int]
DEFAULT = "default"


class Approve(Command):
    """A person lets a held payment go ahead."""

    by: Person
    note: Note


class Reject(Command):
    """A person refuses a held payment."""

    by: Person
    note: Note


class Authorise(Call, name="authorise"):
    """Set the amount aside on the customer's means of payment."""

    amount_minor: AmountMinor
    currency: Currency
    payment_token: Token


class Capture(Call, name="capture"):
    """Take what was authorised."""


class Void(Call, name="void", retry_policy="undo"):
    """Let go of what was authorised but not captured, and refuse a late authorisation."""


class Refund(Call, name="refund", retry_policy="undo"):
    """Give back what was captured."""


class IssueCreditNote(Call, name="issue_credit_note", retry_policy="undo"):
    """Owe the customer what could not be refunded."""


@dataclass(frozen=True, slots=True)
class Authorised(Outcome):
    pass


@dataclass(frozen=True, slots=True)
class AuthorisationDeclined(Outcome):
    reason: str


@dataclass(frozen=True, slots=True)
class Captured(Outcome):
    pass


@dataclass(frozen=True, slots=True)
class CaptureRefused(Outcome):
    reason: str


@dataclass(frozen=True, slots=True)
class Undone(Outcome):
    """A void, refund or credit note succeeded."""

    undone_by: UndoneBy


@dataclass(frozen=True, slots=True)
class UndoRefused(Outcome):
    """The provider will never do this void, refund or credit note."""

    call: Void | Refund | IssueCreditNote
    reason: str


Calls = Authorise | Capture | Void | Refund | IssueCreditNote
Subscribes = StockReserved | ShipmentRejected | ShipmentCancelled | ApprovalExpired | RetryRequested | Settled
Outcomes = (
    Authorised | AuthorisationDeclined | Captured | CaptureRefused | Undone | UndoRefused | GaveUp[Calls]
)
Publishes = (
    PaymentHeld | PaymentApproved | PaymentCaptured | PaymentDeclined | PaymentRefunded | PaymentRefundFailed
)
Rung = Literal["void", "refund", "issue_credit_note"]


@dataclass(frozen=True, slots=True)
class Payment:
    """One order's money. `fenced`: undone before it was done, so never to be charged.

    `withdrawn` means that fulfilment asked for the undo, so it ends in `refunded`; an undo that payment
    began by itself ends in `declined`. `reason` is why it is being undone. `retry_with` and `round`: what a
    retry of an undo that failed begins with, under which key.
    """

    order_id: UUID
    status: Literal[
        "held",
        "authorising",
        "capturing",
        "captured",
        "voiding",
        "refunding",
        "crediting",
        "declined",
        "refunded",
        "refund_failed",
        "fenced",
    ]
    amount_minor: int = 0
    currency: str | None = None
    customer: str | None = None
    payment_token: str | None = None
    lines: tuple[Line, ...] = ()
    withdrawn: bool = False
    reason: str | None = None
    decided_by: str | None = None
    decision_note: str | None = None
    retry_with: Rung = "void"
    round: int = 1
    settled_by: str | None = None


Decided = Decision[Payment | None, Publishes, Calls]
# A call is on its way, and only then does an outcome mean anything.
IN_FLIGHT = frozenset({"authorising", "capturing", "voiding", "refunding", "crediting"})


def decide(
    payment: Payment | None,
    message: Subscribes | Outcomes | Approve | Reject,
    *,
    approval_limits_minor: ApprovalLimits,
) -> Decision[Payment | None, Publishes, Calls]:
    match message:
        case StockReserved():
            return begin(payment, message, limit_of(message.currency, approval_limits_minor))
        case ShipmentRejected() | ShipmentCancelled():
            return undo(payment, message.order_id, message.reason)
        case Approve() | Reject():
            return settle_hold(payment, message)
        case ApprovalExpired():
            return expire_hold(payment)
        case RetryRequested() | Settled():
            return take_up(payment, message)
        case _:
            return learn(payment, message)


def limit_of(currency: str, limits_minor: ApprovalLimits) -> int:
    return limits_minor.get(currency, limits_minor[DEFAULT])


def begin(payment: Payment | None, reserved: StockReserved, approval_limit_minor: int) -> Decided:
    if payment is not None:
        return Decision(payment)
    begun = Payment(
        order_id=reserved.order_id,
        status="authorising",
        amount_minor=reserved.amount_minor,
        currency=reserved.currency,
        customer=reserved.customer,
        payment_token=reserved.payment_token,
        lines=reserved.lines,
    )
    if reserved.amount_minor > approval_limit_minor:
        held = PaymentHeld(
            order_id=reserved.order_id,
            amount_minor=reserved.amount_minor,
            currency=reserved.currency,
            limit_minor=approval_limit_minor,
        )
        return Decision(replace(begun, status="held"), facts=(held,))
    return authorise(begun)


def authorise(payment: Payment) -> Decided:
    call = Authorise(
        order_id=payment.order_id,
        amount_minor=payment.amount_minor,
        currency=payment.currency or "",
        payment_token=payment.payment_token or "",
    )
    return Decision(replace(payment, status="authorising"), calls=(call,))


def settle_hold(payment: Payment | None, command: Approve | Reject) -> Decided:
    if payment is None or payment.status != "held":
        return Decision(payment)
    decided = replace(payment, decided_by=command.by, decision_note=command.note)
    if isinstance(command, Reject):
        return decline(decided, APPROVAL_REJECTED)
    approved = PaymentApproved(order_id=payment.order_id, by=command.by, note=command.note)
    return replace(authorise(decided), facts=(approved,))


def expire_hold(payment: Payment | None) -> Decided:
    if payment is None or payment.status != "held":
        return Decision(payment)
    return decline(payment, APPROVAL_EXPIRED)


def undo(payment: Payment | None, order_id: UUID, reason: str) -> Decided:
    if payment is None:
        payment = Payment(order_id=order_id, status="fenced")
    elif payment.status in ("authorising", "capturing"):
        return Decision(replace(payment, withdrawn=True, reason=reason))
    elif payment.status == "captured":
        return refund(replace(payment, withdrawn=True, reason=reason))
    elif payment.status != "held":
        return Decision(payment)
    nothing_charged = PaymentRefunded(order_id=order_id, undone_by="nothing_charged", reason=reason)
    fence = replace(payment, status="fenced", withdrawn=True, reason=reason)
    return Decision(fence, facts=(nothing_charged,))


def take_up(payment: Payment | None, asked: RetryRequested | Settled) -> Decided:
    """What a person has it do about an undo that failed for good."""
    if payment is None or payment.status != "refund_failed" or asked.service != NAME:
        return Decision(payment)
    if isinstance(asked, Settled):
        return be_refunded(replace(payment, settled_by=asked.by), "person")
    match payment.retry_with:
        case "void":
            return void(payment)
        case "refund":
            return refund(payment)
        case "issue_credit_note":
            return issue_credit_note(payment)


def learn(payment: Payment | None, outcome: Outcomes) -> Decided:
    if payment is None or payment.status not in IN_FLIGHT:
        return Decision(payment)
    match outcome:
        case Authorised():
            return void(payment) if payment.withdrawn else capture(payment)
        case AuthorisationDeclined(reason):
            return end_uncharged(payment, reason)
        case Captured():
            return refund(payment) if payment.withdrawn else be_captured(payment)
        case CaptureRefused(reason):
            return void(replace(payment, reason=payment.reason or reason))
        case Undone(undone_by):
            return end_undone(payment, undone_by)
        case UndoRefused(call, reason):
            return next_rung(payment, call, reason)
        case GaveUp():
            return give_up(payment, outcome)
        case _:
            assert_never(outcome)


def give_up(payment: Payment, gave_up: GaveUp[Calls]) -> Decided:
    match gave_up.call:
        case Authorise() if not gave_up.maybe_done:
            return end_uncharged(payment, PROVIDER_UNAVAILABLE)
        case Authorise() | Capture():
            return void(replace(payment, reason=payment.reason or PROVIDER_UNAVAILABLE))
        case Void() | Refund() | IssueCreditNote():
            # Not on to the next rung: this one may have been done, and money must not go back twice. So a
            # retry asks for the same under the same key.
            stuck = replace(payment, retry_with=rung_of(gave_up.call))
            return fail_undo(stuck, f"{gave_up.call.name}: {gave_up.reason}")
        case _:
            assert_never(gave_up.call)


def next_rung(payment: Payment, refused: Void | Refund | IssueCreditNote, reason: str) -> Decided:
    """Down the ladder: void only while authorised, else refund, else a credit note, else a person."""
    match refused:
        case Void():
            return refund(payment)
        case Refund():
            return issue_credit_note(payment)
        case IssueCreditNote():
            # Whatever was tried in this round was refused, and that is certain: the next may try all anew.
            stuck = replace(payment, retry_with="void", round=payment.round + 1)
            return fail_undo(stuck, f"{refused.name}: {reason}")
        case _:
            assert_never(refused)


def rung_of(call: Void | Refund | IssueCreditNote) -> Rung:
    match call:
        case Void():
            return "void"
        case Refund():
            return "refund"
        case IssueCreditNote():
            return "issue_credit_note"
        case _:
            assert_never(call)


def capture(payment: Payment) -> Decided:
    return Decision(replace(payment, status="capturing"), calls=(Capture(order_id=payment.order_id),))


def void(payment: Payment) -> Decided:
    call = Void(order_id=payment.order_id, round=payment.round)
    return Decision(replace(payment, status="voiding"), calls=(call,))


def refund(payment: Payment) -> Decided:
    call = Refund(order_id=payment.order_id, round=payment.round)
    return Decision(replace(payment, status="refunding"), calls=(call,))


def issue_credit_note(payment: Payment) -> Decided:
    call = IssueCreditNote(order_id=payment.order_id, round=payment.round)
    return Decision(replace(payment, status="crediting"), calls=(call,))


def be_captured(payment: Payment) -> Decided:
    captured = PaymentCaptured(
        order_id=payment.order_id,
        customer=payment.customer or "",
        lines=payment.lines,
        amount_minor=payment.amount_minor,
        currency=payment.currency or "",
    )
    return Decision(replace(payment, status="captured"), facts=(captured,))


def decline(payment: Payment, reason: str) -> Decided:
    by_person = reason == APPROVAL_REJECTED
    by, note = (payment.decided_by, payment.decision_note) if by_person else (None, None)
    declined = PaymentDeclined(order_id=payment.order_id, reason=reason, by=by, note=note)
    return Decision(replace(payment, status="declined", reason=reason), facts=(declined,))


def end_uncharged(payment: Payment, reason: str) -> Decided:
    return end_undone(payment, "nothing_charged") if payment.withdrawn else decline(payment, reason)


def end_undone(payment: Payment, undone_by: UndoneBy) -> Decided:
    if not payment.withdrawn:
        return decline(payment, payment.reason or PROVIDER_UNAVAILABLE)
    return be_refunded(payment, undone_by)


def be_refunded(payment: Payment, undone_by: UndoneBy) -> Decided:
    refunded = PaymentRefunded(
        order_id=payment.order_id,
        undone_by=undone_by,
        reason=payment.reason or PROVIDER_UNAVAILABLE,
        settled_by=payment.settled_by,
    )
    return Decision(replace(payment, status="refunded"), facts=(refunded,))


def fail_undo(payment: Payment, reason: str) -> Decided:
    failed = PaymentRefundFailed(order_id=payment.order_id, reason=reason[:200])
    return Decision(replace(payment, status="refund_failed"), facts=(failed,))
