"""A payment as payment_svc keeps it, what it asks of a provider, and what may come of that.

A payment stays with the provider that it was begun with, so each call names that provider, and the provider's
own id of the payment where it has one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, assert_never
from uuid import UUID

from events.decision import Call, Command, GaveUp, Outcome
from events.facts.base import AmountMinor, Currency, Line, Note, Person, Token
from events.facts.payment import UndoneBy

SANDBOX: Final = "sandbox"
STRIPE: Final = "stripe"
# Whoever gives a payment an id before any money is asked for. Without that id nothing can have been charged.
REGISTERS = frozenset({STRIPE})


About = Literal["authorisation", "refund", "dispute"]


class Approve(Command):
    """A person lets a held payment go ahead."""

    by: Person
    note: Note


class Reject(Command):
    """A person refuses a held payment."""

    by: Person
    note: Note


class Notified(Command):
    """The provider says that something became of a payment. What, is read off the payment itself."""

    event_id: UUID
    provider_payment: str
    about: About

    @property
    def once_id(self) -> UUID:
        """The provider says it more than once."""
        return self.event_id


class AtProvider(Call):
    """A call to a provider. `provider_payment`: what the provider calls this payment."""

    provider: str = SANDBOX
    provider_payment: str | None = None

    @property
    def party(self) -> str:
        """The sandbox's provider has no other name."""
        return "provider" if self.provider == SANDBOX else self.provider


class Register(AtProvider, name="register"):
    """Have the provider give the payment an id; no money is asked for yet."""

    amount_minor: AmountMinor
    currency: Currency
    payment_token: Token


class Authorise(AtProvider, name="authorise"):
    """Set the amount aside on the customer's means of payment."""

    amount_minor: AmountMinor
    currency: Currency
    payment_token: Token


class Capture(AtProvider, name="capture"):
    """Take what was authorised."""


class Void(AtProvider, name="void", retry_policy="undo"):
    """Let go of what was authorised but not captured, and refuse a late authorisation.

    `registration`: how the payment was to be registered, where nobody knows whether it was. It is registered
    under the same key, and that is let go of.
    """

    registration: Register | None = None


class Refund(AtProvider, name="refund", retry_policy="undo"):
    """Give back what was captured."""


class Follow(AtProvider, name="follow", retry_policy="pending"):
    """Look how a payment stands, until the provider knows: what is pending ends in days, and then says so.

    `what`: for what is waited. `once`: look and say how it stands, pending or not.
    """

    what: Literal["authorisation", "refund"]
    once: bool = False


class IssueCreditNote(AtProvider, name="issue_credit_note", retry_policy="undo"):
    """Owe the customer what could not be refunded."""


@dataclass(frozen=True, slots=True)
class Registered(Outcome):
    """The provider knows of the payment, by this id."""

    provider_payment: str


@dataclass(frozen=True, slots=True)
class Authorised(Outcome):
    pass


@dataclass(frozen=True, slots=True)
class AuthorisationDeclined(Outcome):
    """Also of a payment that is not even registered."""

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


@dataclass(frozen=True, slots=True)
class Pending(Outcome):
    """The provider took it on, and does not know yet how it will end."""

    reason: str


@dataclass(frozen=True, slots=True)
class Stands(Outcome):
    """How a payment stands at the provider, whoever asked, and in which `round` of its undo that was."""

    status: Literal["pending", "authorised", "declined", "captured", "refunded", "refund_failed", "credited"]
    reason: str = ""
    disputed: str | None = None
    round: int = 1


Calls = Register | Authorise | Capture | Void | Refund | IssueCreditNote | Follow
Results = (
    Registered
    | Authorised
    | AuthorisationDeclined
    | Captured
    | CaptureRefused
    | Undone
    | UndoRefused
    | Pending
    | Stands
)
Outcomes = Results | GaveUp[Calls]

Rung = Literal["void", "refund", "issue_credit_note"]


@dataclass(frozen=True, slots=True)
class Payment:
    """One order's money. `fenced`: undone before it was done, so never to be charged.

    `withdrawn` means that fulfilment asked for the undo, so it ends in `refunded`; an undo that payment
    began by itself ends in `declined`. `reason` is why it is being undone. `retry_with` and `round`: what a
    retry of an undo that failed begins with, under which key. `provider`: with whom it was begun, and is
    finished; `provider_payment`: what that one calls it, where it gives ids. `reversed`: it was published as
    refunded, and that was not so after all.
    """

    order_id: UUID
    status: Literal[
        "held",
        "authorising",
        "authorisation_pending",
        "capturing",
        "captured",
        "voiding",
        "refunding",
        "refund_pending",
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
    provider: str = SANDBOX
    provider_payment: str | None = None
    disputed: bool = False
    reversed: bool = False


# A call is on its way, and only then does an outcome mean anything.
IN_FLIGHT = frozenset(
    {
        "authorising",
        "authorisation_pending",
        "capturing",
        "voiding",
        "refunding",
        "refund_pending",
        "crediting",
    }
)
# What the provider says of its own accord matters where nobody asks, or has given up asking so often.
MATTERS_TO: Mapping[About, frozenset[str]] = {
    "authorisation": frozenset({"authorisation_pending"}),
    "refund": frozenset({"refund_pending", "refunded", "declined"}),
    # Its event may come before it is known that the money was taken, and while it goes back.
    "dispute": frozenset(
        {
            *("capturing", "captured", "voiding", "refunding", "refund_pending", "crediting"),
            *("declined", "refund_failed", "refunded"),
        }
    ),
}


def register_of(payment: Payment) -> Register:
    return Register(
        order_id=payment.order_id,
        provider=payment.provider,
        amount_minor=payment.amount_minor,
        currency=payment.currency or "",
        payment_token=payment.payment_token or "",
    )


def authorise_of(payment: Payment) -> Authorise:
    return Authorise(
        order_id=payment.order_id,
        provider=payment.provider,
        provider_payment=payment.provider_payment,
        amount_minor=payment.amount_minor,
        currency=payment.currency or "",
        payment_token=payment.payment_token or "",
    )


def capture_of(payment: Payment) -> Capture:
    return Capture(
        order_id=payment.order_id, provider=payment.provider, provider_payment=payment.provider_payment
    )


def void_of(payment: Payment) -> Void:
    unknown = payment.provider in REGISTERS and payment.provider_payment is None
    return Void(
        order_id=payment.order_id,
        round=payment.round,
        provider=payment.provider,
        provider_payment=payment.provider_payment,
        registration=register_of(payment) if unknown else None,
    )


def refund_of(payment: Payment) -> Refund:
    return Refund(
        order_id=payment.order_id,
        round=payment.round,
        provider=payment.provider,
        provider_payment=payment.provider_payment,
    )


def credit_note_of(payment: Payment) -> IssueCreditNote:
    return IssueCreditNote(
        order_id=payment.order_id,
        round=payment.round,
        provider=payment.provider,
        provider_payment=payment.provider_payment,
    )


def follow_of(payment: Payment, *, once: bool = False) -> Follow:
    return Follow(
        order_id=payment.order_id,
        round=payment.round,
        provider=payment.provider,
        provider_payment=payment.provider_payment,
        what="authorisation" if payment.status == "authorisation_pending" else "refund",
        once=once,
    )


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
