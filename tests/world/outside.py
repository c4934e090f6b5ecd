"""The world outside as it may behave: a payment provider, a carrier and a customer, as pure functions.

They keep the promises of the sandbox (compose/sandbox/provider.py, carrier.py), and refuse whatever a real
one may refuse, an undo included. One promise they do not keep: to give money back only once.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal

from events.decision import Call, Outcome
from fulfillment_svc import shipment as fulfillment
from notification_svc import decide as notification
from payment_svc import payment
from tests.decide.given import DELIVER_ON, SHIPMENT

Movement = Literal["authorised", "captured", "voided", "refunded", "credited"]


@dataclass(frozen=True, slots=True)
class Outside:
    """What provider and carrier hold of one order. `closed`: undone before it was done, so never done."""

    account: Literal["nothing", "closed", "authorised", "captured", "voided", "refunded", "credited"] = (
        "nothing"
    )
    amount_minor: int = 0
    currency: str = ""
    movements: tuple[Movement, ...] = ()
    pending: Literal["nothing", "authorisation", "refund"] = "nothing"
    """What a provider with ids has taken on, and not yet done."""
    by_itself: bool = False
    """That something became of it that nobody had asked for."""
    refund_failed: bool = False
    disputed: bool = False
    parcel: Literal["nothing", "closed", "booked", "dispatched", "cancelled"] = "nothing"
    label_pending: bool = False
    """A carrier with ids gives back later what a label cost, or does not."""
    answered: frozenset[tuple[str, Outcome]] = frozenset()
    """By idempotency key, where the same may be asked for once more."""

    def moved(self, movement: Movement) -> "Outside":
        return replace(self, account=movement, movements=(*self.movements, movement))


Decided = tuple[Outside, Outcome]
REFUSED, LATER, PAYMENT = "refused", "pending", "pi_1"
UNTIL = datetime(2026, 12, 1, tzinfo=UTC)


def carry_out(call: Call, outside: Outside) -> Iterator[Decided]:
    """Everything that may come of a call: what the outside world holds afterwards, and its answer."""
    if call.retry_policy != "undo":
        yield from possibilities(call, outside)
        return
    key = call.idempotency_key
    if (outcome := dict(outside.answered).get(key)) is not None:
        yield outside, outcome
        return
    for after, outcome in possibilities(call, outside):
        yield replace(after, answered=after.answered | {(key, outcome)}), outcome


def possibilities(call: Call, outside: Outside) -> Iterator[Decided]:
    """The same for a call under a key that was never seen."""
    match call:
        case payment.Register():
            return register(outside)
        case payment.Follow():
            return follow(call, outside)
        case payment.Authorise() | payment.Capture():
            return charge(call, outside)
        case payment.Void() | payment.Refund() | payment.IssueCreditNote():
            return pay_back(call, outside)
        case fulfillment.PrepareShipment() | fulfillment.FollowRefund():
            return prepare_or_follow(call, outside)
        case fulfillment.BookShipment() | fulfillment.CancelShipment() | fulfillment.DispatchShipment():
            return ship(call, outside)
        case notification.SendEmail() | notification.SendPush():
            return tell(call, outside)
        case _:
            raise AssertionError(f"nobody out there can do this: {call!r}")


def leaves_a_trace(call: Call) -> bool:
    """Whether it matters that a request given up on arrives after all: a message does not, nor a question."""
    questions = payment.Follow | fulfillment.FollowRefund
    return not isinstance(call, notification.SendEmail | notification.SendPush | questions)


def register(outside: Outside) -> Iterator[Decided]:
    yield outside, payment.Registered(PAYMENT)
    yield outside, payment.AuthorisationDeclined(REFUSED)


def follow(call: payment.Follow, outside: Outside) -> Iterator[Decided]:
    """What was pending ends, one way or the other; or goes on, to who only looks once."""
    if outside.pending == "nothing":
        if not (call.once or outside.by_itself):
            raise AssertionError("nothing is pending, and somebody follows it")
        yield outside, stands(call, outside)
        return
    if call.once:
        yield outside, stands(call, outside)
    for after in ends_of_pending(outside):
        yield after, stands(call, after)


def ends_of_pending(outside: Outside) -> Iterator[Outside]:
    over = replace(outside, pending="nothing")
    match outside.pending:
        case "authorisation":
            yield over.moved("authorised")
            yield over
        case "refund":
            yield over.moved("refunded")
            yield replace(over, refund_failed=True)
        case "nothing":
            pass


def stands(call: payment.Follow, outside: Outside) -> payment.Stands:
    """How a payment stands, to whoever looks."""
    disputed = "disputed" if outside.disputed else None
    if outside.pending != "nothing":
        return payment.Stands("pending", "", disputed, call.round)
    match outside.account:
        case "nothing" | "closed" | "voided":
            return payment.Stands("declined", REFUSED, disputed, call.round)
        case "captured" if outside.refund_failed:
            return payment.Stands("refund_failed", REFUSED, disputed, call.round)
        case account:
            return payment.Stands(account, "", disputed, call.round)


def by_itself(outside: Outside) -> Iterator[tuple[str, Outside, payment.About]]:
    """What may become of a payment that nobody asks for, late or soon, and what its event is about."""
    happened = replace(outside, by_itself=True)
    if outside.pending != "nothing":
        about: payment.About = "refund" if outside.pending == "refund" else "authorisation"
        for after in ends_of_pending(happened):
            yield "what was pending ends", after, about
    if outside.account == "authorised":
        yield "the authorisation expires", happened.moved("voided"), "authorisation"
    if outside.account == "refunded":
        failed = replace(happened, account="captured", movements=outside.movements[:-1], refund_failed=True)
        yield "the refund fails after all", failed, "refund"
    if outside.account == "captured" and not outside.disputed:
        yield "the charge is disputed", replace(happened, disputed=True), "dispute"


def charge(call: payment.Authorise | payment.Capture, outside: Outside) -> Iterator[Decided]:
    if isinstance(call, payment.Authorise):
        if outside.account == "nothing":
            asked_for = replace(outside, amount_minor=call.amount_minor, currency=call.currency)
            yield asked_for.moved("authorised"), payment.Authorised()
            if call.provider in payment.REGISTERS:
                yield replace(asked_for, pending="authorisation"), payment.Pending(LATER)
        yield outside, payment.AuthorisationDeclined(REFUSED)
    else:
        if outside.account == "authorised":
            yield outside.moved("captured"), payment.Captured()
        yield outside, payment.CaptureRefused(REFUSED)


def pay_back(
    call: payment.Void | payment.Refund | payment.IssueCreditNote, outside: Outside
) -> Iterator[Decided]:
    match call, outside.account:
        case payment.Void(), "nothing":
            # Also what was pending: it ends before it is let go of, or is let go of before it ends.
            yield replace(outside, account="closed", pending="nothing"), payment.Undone("void")
        case payment.Void(), "authorised":
            yield outside.moved("voided"), payment.Undone("void")
        case payment.Void(), "closed" | "voided":
            yield outside, payment.Undone("void")
        case payment.Refund(), "captured" if outside.disputed:
            # Neither done nor refused: until the dispute is over it is answered by an error.
            return
        case payment.Refund(), "captured" | "refunded" | "credited":
            yield outside.moved("refunded"), payment.Undone("refund")
            if call.provider in payment.REGISTERS:
                yield replace(outside, pending="refund"), payment.Pending(LATER)
        case payment.IssueCreditNote(), "captured" | "refunded" | "credited":
            yield outside.moved("credited"), payment.Undone("credit_note")
        case _:
            pass
    yield outside, payment.UndoRefused(call, REFUSED)


def ship(
    call: fulfillment.BookShipment | fulfillment.CancelShipment | fulfillment.DispatchShipment,
    outside: Outside,
) -> Iterator[Decided]:
    match call, outside.parcel:
        case fulfillment.BookShipment(), parcel:
            if parcel == "nothing":
                yield replace(outside, parcel="booked"), fulfillment.Booked(SHIPMENT, DELIVER_ON)
            yield outside, fulfillment.BookingRefused(REFUSED)
        case fulfillment.CancelShipment(), parcel:
            if parcel != "dispatched":
                gone = replace(outside, parcel="closed" if parcel == "nothing" else "cancelled")
                yield gone, fulfillment.Unbooked()
                if call.carrier in fulfillment.PREPARES:
                    yield replace(gone, label_pending=True), fulfillment.RefundPending(UNTIL)
            yield outside, fulfillment.CancelRefused(REFUSED)
        case fulfillment.DispatchShipment(), parcel:
            if parcel == "booked":
                yield replace(outside, parcel="dispatched"), fulfillment.Dispatched()
            yield outside, fulfillment.DispatchRefused(REFUSED)


def prepare_or_follow(
    call: fulfillment.PrepareShipment | fulfillment.FollowRefund, outside: Outside
) -> Iterator[Decided]:
    if isinstance(call, fulfillment.PrepareShipment):
        yield outside, fulfillment.Prepared(SHIPMENT)
        yield outside, fulfillment.BookingRefused(REFUSED)
        return
    assert outside.label_pending, "nothing is pending, and somebody follows it"
    over = replace(outside, label_pending=False)
    yield over, fulfillment.RefundEnded()
    # Somebody used the label: so the parcel may be anywhere.
    used = replace(over, parcel="booked") if over.parcel == "cancelled" else over
    yield used, fulfillment.RefundRejected(REFUSED)


def tell(call: notification.SendEmail | notification.SendPush, outside: Outside) -> Iterator[Decided]:
    channel = notification.channel_of(call)
    yield outside, notification.Delivered(channel)
    yield outside, notification.Undeliverable(channel, REFUSED)
