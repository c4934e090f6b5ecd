"""What a payment provider promises.

- One payment per reference (here: an order). Its life is one of

        nothing -> authorised -> captured -> refunded | credited
                   authorised -> voided
        nothing -> closed

  and nothing else. Authorised: the card can pay, the money is set aside. Captured: the money moved.
- A void before the capture costs nobody anything and always succeeds, even when nothing was authorised: then
  the reference is closed, and an authorisation that arrives late is declined. (Adyen calls this a technical
  cancel.) Whoever lost an answer can therefore always make sure that nothing is or will be charged.
- After the capture money can only be sent back, once: by a refund, or by a credit note where the card refuses
  refunds. Both may be refused; then a person has to see to it.
- A request repeated under its Idempotency-Key is answered as the first time and does nothing (operations.py).
- The ledger lists every movement of money. Its constraints (ledger.py) rule out a second capture or a second
  way back even if the rules below had a bug.
"""

from dataclasses import astuple, dataclass
from sqlite3 import Connection
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from compose.sandbox.http import Body, OnReference, Reference
from compose.sandbox.operations import Answer, Manner, new_id, now
from events.facts.base import OrderCurrency

MAX_AMOUNT_MINOR = 10**14

State = Literal["nothing", "authorised", "captured", "voided", "refunded", "credited", "closed"]
Movement = Literal["authorised", "captured", "voided", "refunded", "credited"]


class Authorisation(Body):
    """Set `amount_minor` (in the currency's smallest unit) aside on the card behind `payment_token`."""

    reference: Reference
    amount_minor: Annotated[int, Field(ge=0, le=MAX_AMOUNT_MINOR)]
    currency: OrderCurrency
    payment_token: Annotated[str, StringConstraints(min_length=1, max_length=100)]


@dataclass(frozen=True, slots=True)
class Card:
    """How the card behind a test token behaves."""

    manner: Manner = Manner.WELL
    declines: str | None = None
    refunds: bool = True
    credit_notes: bool = True


CARDS = {
    "tok_ok": Card(),
    "tok_declined": Card(declines="card_declined"),
    "tok_slow": Card(Manner.SLOW),
    "tok_fails": Card(Manner.FAILS),
    "tok_flaky": Card(Manner.FLAKY),
    "tok_lost": Card(Manner.LOST),
    "tok_refund_refused": Card(refunds=False),
    "tok_undo_refused": Card(refunds=False, credit_notes=False),
}
NO_SUCH_CARD = Card(declines="unknown_token")


@dataclass(frozen=True, slots=True)
class Payment:
    """A reference as the provider knows it. The token given with the authorisation stays with it."""

    reference: str
    state: State = "nothing"
    amount_minor: int = 0
    currency: str = ""
    payment_token: str | None = None

    @property
    def card(self) -> Card:
        """The card behind the payment; a well-behaved one while nothing was authorised."""
        return Card() if self.payment_token is None else card_of(self.payment_token)


def authorise(db: Connection, wanted: Authorisation) -> Answer:
    """201 authorised, 402 declined; 409 when the reference has a payment already."""
    payment = payment_of(db, wanted.reference)
    if payment.state in ("closed", "voided"):
        return Answer(402, {"status": "declined", "reason": "reference_closed"})
    if payment.state != "nothing":
        return _refused("already_authorised")
    declined = card_of(wanted.payment_token).declines
    if declined is not None:
        return Answer(402, {"status": "declined", "reason": declined})
    payment = Payment(
        wanted.reference, "authorised", wanted.amount_minor, wanted.currency, wanted.payment_token
    )
    db.execute("INSERT INTO payments VALUES (?, ?, ?, ?, ?)", astuple(payment))
    _enter(db, payment, "authorised")
    return Answer(201, {"status": "authorised", "authorisation_id": new_id("auth")})


def capture(db: Connection, wanted: OnReference) -> Answer:
    """201 captured; 409 when there is nothing to capture or it was captured before."""
    payment = payment_of(db, wanted.reference)
    match payment.state:
        case "authorised":
            _move(db, payment, "captured")
            return Answer(201, {"status": "captured", "capture_id": new_id("cap")})
        case "nothing":
            return _refused("not_authorised")
        case "closed" | "voided":
            return _refused("voided")
        case "captured" | "refunded" | "credited":
            return _refused("already_captured")


def void(db: Connection, wanted: OnReference) -> Answer:
    """201 voided; 409 once captured. Afterwards nothing can be authorised or captured."""
    payment = payment_of(db, wanted.reference)
    match payment.state:
        case "nothing":
            db.execute("INSERT INTO payments (reference, state) VALUES (?, 'closed')", (wanted.reference,))
        case "authorised":
            _move(db, payment, "voided")
        case "closed" | "voided":
            pass
        case "captured":
            return _refused("captured")
        case "refunded" | "credited":
            return _refused(f"already_{payment.state}")
    return Answer(201, {"status": "voided"})


def refund(db: Connection, wanted: OnReference) -> Answer:
    """201 refunded; 409 when not captured, given back before, or when the card refuses refunds."""
    payment = payment_of(db, wanted.reference)
    refused = _no_way_back(payment)
    if refused is None and not payment.card.refunds:
        refused = "refund_refused"
    if refused is not None:
        return _refused(refused)
    _move(db, payment, "refunded")
    return Answer(201, {"status": "refunded", "refund_id": new_id("ref")})


def issue_credit_note(db: Connection, wanted: OnReference) -> Answer:
    """201 credited; 409 when not captured, given back before, or when it is refused."""
    payment = payment_of(db, wanted.reference)
    refused = _no_way_back(payment)
    if refused is None and not payment.card.credit_notes:
        refused = "credit_note_refused"
    if refused is not None:
        return _refused(refused)
    _move(db, payment, "credited")
    return Answer(201, {"status": "credited", "credit_note_id": new_id("cn")})


def card_of(payment_token: str) -> Card:
    """The card behind a token; a token that is not in the table is declined, not guessed."""
    return CARDS.get(payment_token, NO_SUCH_CARD)


def payment_of(db: Connection, reference: str) -> Payment:
    """The payment under a reference; a blank one when there is none."""
    row = db.execute(
        "SELECT state, amount_minor, currency, payment_token FROM payments WHERE reference = ?", (reference,)
    ).fetchone()
    return Payment(reference) if row is None else Payment(reference, *row)


def manner_of_authorisation(_db: Connection, wanted: Authorisation) -> Manner:
    """How the authorisation is gone about: by the token it brings."""
    return card_of(wanted.payment_token).manner


def manner_of_follow_up(db: Connection, wanted: OnReference) -> Manner:
    """How everything after is gone about: by the token the reference was authorised with."""
    return payment_of(db, wanted.reference).card.manner


def _no_way_back(payment: Payment) -> str | None:
    match payment.state:
        case "captured":
            return None
        case "refunded" | "credited":
            return f"already_{payment.state}"
        case "nothing" | "authorised" | "voided" | "closed":
            return "not_captured"


def _move(db: Connection, payment: Payment, movement: Movement) -> None:
    db.execute("UPDATE payments SET state = ? WHERE reference = ?", (movement, payment.reference))
    _enter(db, payment, movement)


def _enter(db: Connection, payment: Payment, movement: Movement) -> None:
    db.execute(
        "INSERT INTO entries (reference, kind, amount_minor, currency, at) VALUES (?, ?, ?, ?, ?)",
        (payment.reference, movement, payment.amount_minor, payment.currency, now()),
    )


def _refused(reason: str) -> Answer:
    return Answer(409, {"status": "refused", "reason": reason})
