"""What payment makes of each fact, command and outcome.

    stock_reserved       -> authorise, then capture -> captured | declined
                            (before that registered, with a provider that wants it so)
                            (above the limit: payment.held, until a person approves or rejects)
    shipment_rejected,
    shipment_cancelled   -> void, else refund, else credit note -> refunded, else refund_failed
                            (or a fence, when nothing was begun yet)
    what is pending at the provider
                         -> pending, or refund_pending, until the provider says how it ended; and what it says
                            later still: refund_reversed, disputed
    saga.retry_requested,
    saga.settled         -> what failed is tried again; or a person gave the money back: refunded

A call in flight when the order is withdrawn is undone once its outcome is known.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import assert_never
from uuid import UUID

from events.decision import Decision, GaveUp
from events.facts.fulfillment import ShipmentCancelled, ShipmentRejected
from events.facts.inventory import StockReserved
from events.facts.payment import (
    PaymentApproved,
    PaymentCaptured,
    PaymentDeclined,
    PaymentDisputed,
    PaymentHeld,
    PaymentPending,
    PaymentRefunded,
    PaymentRefundFailed,
    PaymentRefundPending,
    PaymentRefundReversed,
    UndoneBy,
)
from events.facts.saga import ApprovalExpired, RetryRequested, Settled
from payment_svc.payment import (
    IN_FLIGHT,
    MATTERS_TO,
    REGISTERS,
    SANDBOX,
    Approve,
    AuthorisationDeclined,
    Authorise,
    Authorised,
    Calls,
    Capture,
    Captured,
    CaptureRefused,
    Follow,
    IssueCreditNote,
    Notified,
    Outcomes,
    Payment,
    Pending,
    Refund,
    Register,
    Registered,
    Reject,
    Stands,
    Undone,
    UndoRefused,
    Void,
    authorise_of,
    capture_of,
    credit_note_of,
    follow_of,
    refund_of,
    register_of,
    rung_of,
    void_of,
)

NAME = "payment"
PROVIDER_UNAVAILABLE = "provider_unavailable"
AUTHORISATION_PENDING = "authorisation_pending"
APPROVAL_REJECTED = "approval_rejected"
APPROVAL_EXPIRED = "approval_expired"

# Above which amount a person has to approve, in minor units, by currency. One that the table does not name
# has as many of its own minor units as `default` says: 1000000 is 10000.00 EUR, 1000000 JPY or 1000.000 KWD.
ApprovalLimits = Mapping[str, int]
DEFAULT = "default"


Subscribes = StockReserved | ShipmentRejected | ShipmentCancelled | ApprovalExpired | RetryRequested | Settled
Publishes = (
    PaymentHeld
    | PaymentApproved
    | PaymentPending
    | PaymentCaptured
    | PaymentDeclined
    | PaymentRefundPending
    | PaymentRefunded
    | PaymentRefundFailed
    | PaymentRefundReversed
    | PaymentDisputed
)
Decided = Decision[Payment | None, Publishes, Calls]


def decide(
    payment: Payment | None,
    message: Subscribes | Outcomes | Approve | Reject | Notified,
    *,
    approval_limits_minor: ApprovalLimits,
    provider: str = SANDBOX,
) -> Decision[Payment | None, Publishes, Calls]:
    match message:
        case StockReserved():
            return begin(payment, message, limit_of(message.currency, approval_limits_minor), provider)
        case ShipmentRejected() | ShipmentCancelled():
            return undo(payment, message.order_id, message.reason)
        case Approve() | Reject():
            return settle_hold(payment, message)
        case ApprovalExpired():
            return expire_hold(payment)
        case Notified():
            return look_again(payment, message)
        case Stands():
            return stand(payment, message)
        case RetryRequested() | Settled():
            return take_up(payment, message)
        case _:
            return learn(payment, message)


def limit_of(currency: str, limits_minor: ApprovalLimits) -> int:
    return limits_minor.get(currency, limits_minor[DEFAULT])


def begin(
    payment: Payment | None, reserved: StockReserved, approval_limit_minor: int, provider: str
) -> Decided:
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
        provider=provider,
    )
    if reserved.amount_minor > approval_limit_minor:
        held = PaymentHeld(
            order_id=reserved.order_id,
            amount_minor=reserved.amount_minor,
            currency=reserved.currency,
            limit_minor=approval_limit_minor,
        )
        return Decision(replace(begun, status="held"), facts=(held,))
    return ask_for_money(begun)


def ask_for_money(payment: Payment) -> Decided:
    """First of all by having it registered, if the provider wants that: its id is kept before any charge."""
    call = register_of(payment) if payment.provider in REGISTERS else authorise_of(payment)
    return Decision(replace(payment, status="authorising"), calls=(call,))


def settle_hold(payment: Payment | None, command: Approve | Reject) -> Decided:
    if payment is None or payment.status != "held":
        return Decision(payment)
    decided = replace(payment, decided_by=command.by, decision_note=command.note)
    if isinstance(command, Reject):
        return decline(decided, APPROVAL_REJECTED)
    approved = PaymentApproved(order_id=payment.order_id, by=command.by, note=command.note)
    return replace(ask_for_money(decided), facts=(approved,))


def expire_hold(payment: Payment | None) -> Decided:
    if payment is None or payment.status != "held":
        return Decision(payment)
    return decline(payment, APPROVAL_EXPIRED)


def undo(payment: Payment | None, order_id: UUID, reason: str) -> Decided:
    if payment is None:
        payment = Payment(order_id=order_id, status="fenced")
    elif payment.status in ("authorising", "capturing"):
        return Decision(replace(payment, withdrawn=True, reason=reason))
    elif payment.status == "authorisation_pending" and not payment.withdrawn:
        waits = PaymentRefundPending(order_id=order_id, reason=AUTHORISATION_PENDING)
        return Decision(replace(payment, withdrawn=True, reason=reason), facts=(waits,))
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


def look_again(payment: Payment | None, notified: Notified) -> Decided:
    """Only where it may matter: what is under way is answered, and says more than its event."""
    if payment is None or payment.provider_payment != notified.provider_payment:
        return Decision(payment)
    if payment.status not in MATTERS_TO[notified.about]:
        return Decision(payment)
    return Decision(payment, calls=(follow_of(payment, once=True),))


def stand(payment: Payment | None, stands: Stands) -> Decided:
    """What is pending has ended, or it turns out that what had ended did not."""
    if payment is None or stands.round != payment.round:
        return Decision(payment)
    noted = note_dispute(payment, stands.disputed)
    decided = end_pending(noted.state or payment, stands)
    return replace(decided, facts=(*noted.facts, *decided.facts))


def note_dispute(payment: Payment, disputed: str | None) -> Decided:
    if disputed is None or payment.disputed:
        return Decision(payment)
    fact = PaymentDisputed(order_id=payment.order_id, reason=disputed)
    return Decision(replace(payment, disputed=True), facts=(fact,))


def end_pending(payment: Payment, stands: Stands) -> Decided:
    match payment.status, stands.status:
        case "authorisation_pending", "authorised":
            return void(payment) if payment.withdrawn else capture(payment)
        case "authorisation_pending", "declined":
            return end_uncharged(payment, stands.reason or PROVIDER_UNAVAILABLE)
        case "refund_pending", "refunded":
            return end_undone(payment, "refund")
        case "refund_pending", "credited":
            return end_undone(payment, "credit_note")
        case "refund_pending", "refund_failed":
            return issue_credit_note(payment)
        case "refunded" | "declined", "refund_failed" if payment.settled_by is None:
            # It was certainly coming, and did not come after all: under new keys it may be tried again.
            stuck = replace(payment, status="refund_failed", retry_with="void", reversed=True)
            reason = f"refund: {stands.reason}"[:200]
            fact = PaymentRefundReversed(order_id=payment.order_id, reason=reason)
            return Decision(replace(stuck, round=payment.round + 1), facts=(fact,))
        case _:
            return Decision(payment)


def be_pending(payment: Payment, reason: str) -> Decided:
    if payment.status == "authorising":
        following = replace(payment, status="authorisation_pending")
        pending = PaymentPending(order_id=payment.order_id, reason=reason[:200])
        return Decision(following, facts=(pending,), calls=(follow_of(following),))
    following = replace(payment, status="refund_pending")
    waits = PaymentRefundPending(order_id=payment.order_id, reason=reason[:200])
    return Decision(following, facts=(waits,), calls=(follow_of(following),))


def learn(payment: Payment | None, outcome: Outcomes) -> Decided:
    if payment is None or payment.status not in IN_FLIGHT:
        return Decision(payment)
    match outcome:
        case Registered(provider_payment):
            return be_registered(replace(payment, provider_payment=provider_payment))
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
        case Pending(reason):
            return be_pending(payment, reason)
        case UndoRefused(call, reason):
            return next_rung(payment, call, reason)
        case GaveUp():
            return give_up(payment, outcome)
        case Stands():
            return stand(payment, outcome)
        case _:
            assert_never(outcome)


def be_registered(payment: Payment) -> Decided:
    return void(payment) if payment.withdrawn else Decision(payment, calls=(authorise_of(payment),))


def give_up(payment: Payment, gave_up: GaveUp[Calls]) -> Decided:
    match gave_up.call:
        case Register() | Authorise() if not gave_up.maybe_done:
            return end_uncharged(payment, PROVIDER_UNAVAILABLE)
        case Register() | Authorise() | Capture():
            return void(replace(payment, reason=payment.reason or PROVIDER_UNAVAILABLE))
        case Follow() if payment.status == "authorisation_pending":
            return void(replace(payment, reason=payment.reason or PROVIDER_UNAVAILABLE))
        case Follow() if payment.status == "refund_pending":
            return fail_undo(replace(payment, retry_with="refund"), f"{gave_up.call.name}: {gave_up.reason}")
        case Follow():
            return Decision(payment)
        case Void() if payment.provider in REGISTERS and payment.provider_payment is None:
            # Nobody learned its id, so nobody can have asked for money under it.
            return end_uncharged(payment, payment.reason or PROVIDER_UNAVAILABLE)
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


def capture(payment: Payment) -> Decided:
    return Decision(replace(payment, status="capturing"), calls=(capture_of(payment),))


def void(payment: Payment) -> Decided:
    return Decision(replace(payment, status="voiding"), calls=(void_of(payment),))


def refund(payment: Payment) -> Decided:
    return Decision(replace(payment, status="refunding"), calls=(refund_of(payment),))


def issue_credit_note(payment: Payment) -> Decided:
    return Decision(replace(payment, status="crediting"), calls=(credit_note_of(payment),))


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
