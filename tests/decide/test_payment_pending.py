"""payment_svc with a provider that gives payments ids of its own: registered first, pending, known late."""

from dataclasses import replace
from typing import Any, get_args
from uuid import UUID

from events.decision import Decision, GaveUp
from payment_svc.decide import DEFAULT, decide
from payment_svc.payment import (
    About,
    AuthorisationDeclined,
    Authorised,
    Follow,
    Notified,
    Pending,
    Register,
    Registered,
    Stands,
    UndoRefused,
    Void,
)
from tests.decide.given import (
    ABOVE_LIMIT_MINOR,
    AMOUNT_MINOR,
    APPROVAL_EXPIRED,
    CURRENCY,
    LIMIT_MINOR,
    ORDER,
    PAYMENT_APPROVED,
    PERSON,
    SERVICE,
    SHIPMENT_CANCELLED,
    SHIPMENT_REJECTED,
    STOCK_RESERVED,
    TOKEN,
    payment_declined,
    payment_disputed,
    payment_pending,
    payment_refund_failed,
    payment_refund_pending,
    payment_refund_reversed,
    payment_refunded,
    stock_reserved,
)
from tests.decide.table import Row, every, given, given_up, rows
from tests.decide.test_payment import (
    APPROVE,
    AUTHORISE,
    AUTHORISING,
    CAPTURE,
    CREDIT_NOTE,
    CREDITING,
    DECLINED,
    FENCED,
    HELD,
    REFUND,
    REFUND_FAILED,
    REFUNDING,
    REJECT,
    RETRY,
    SETTLE,
    SETTLED_BY_HAND,
    VOID,
    VOIDING,
    in_round,
    withdrawn,
)

# With a provider that gives ids: it is registered, and its id is kept, before any money is asked for.
REGISTER = Register(
    order_id=ORDER, provider="stripe", amount_minor=AMOUNT_MINOR, currency=CURRENCY, payment_token=TOKEN
)
REGISTER_HELD = REGISTER.model_copy(update={"amount_minor": ABOVE_LIMIT_MINOR})
THERE: dict[str, Any] = {"provider": "stripe", "provider_payment": "pi_1"}
REGISTERING = replace(AUTHORISING, provider="stripe")
REGISTERED = replace(REGISTERING, provider_payment="pi_1")
AUTHORISE_THERE, CAPTURE_THERE = AUTHORISE.model_copy(update=THERE), CAPTURE.model_copy(update=THERE)
VOID_THERE, REFUND_THERE = VOID.model_copy(update=THERE), REFUND.model_copy(update=THERE)
CREDIT_NOTE_THERE = CREDIT_NOTE.model_copy(update=THERE)
FENCE_THERE = Void(order_id=ORDER, provider="stripe", registration=REGISTER)
UNKNOWN_THERE = replace(REGISTERING, status="voiding", reason="provider_unavailable")

REGISTERING_FIRST = rows(
    given(replace(HELD, provider="stripe"))
    .when(APPROVE)
    .then(
        replace(
            HELD,
            status="authorising",
            provider="stripe",
            decided_by=PERSON,
            decision_note="known customer",
        ),
        PAYMENT_APPROVED,
        REGISTER_HELD,
    ),
    given(REGISTERING).when(Registered("pi_1")).then(REGISTERED, AUTHORISE_THERE),
    given(REGISTERED).when(Authorised()).then(replace(REGISTERED, status="capturing"), CAPTURE_THERE),
    given(REGISTERING)
    .when(AuthorisationDeclined("card_declined"))
    .then(replace(REGISTERING, status="declined", reason="card_declined"), payment_declined()),
    given(withdrawn(REGISTERING))
    .when(Registered("pi_1"))
    .then(withdrawn(replace(REGISTERED, status="voiding")), VOID_THERE),
    given(REGISTERING)
    .when(GaveUp(REGISTER, "http_500", maybe_done=False))
    .then(
        replace(REGISTERING, status="declined", reason="provider_unavailable"),
        payment_declined("provider_unavailable"),
    ),
    # Perhaps it was registered: the void has it registered by the same key, and lets go of that.
    given(REGISTERING).when(GaveUp(REGISTER, "timeout", maybe_done=True)).then(UNKNOWN_THERE, FENCE_THERE),
    # Nobody ever learned its id, so nobody can have asked for money under it.
    given(UNKNOWN_THERE)
    .when(*given_up(FENCE_THERE))
    .then(replace(UNKNOWN_THERE, status="declined"), payment_declined("provider_unavailable")),
    given(withdrawn(UNKNOWN_THERE))
    .when(*given_up(FENCE_THERE))
    .then(withdrawn(replace(UNKNOWN_THERE, status="refunded")), payment_refunded("nothing_charged")),
    given(replace(UNKNOWN_THERE, provider_payment="pi_1"))
    .when(*given_up(VOID_THERE))
    .then(
        replace(UNKNOWN_THERE, status="refund_failed", provider_payment="pi_1"),
        payment_refund_failed("void: timeout"),
    ),
    given(withdrawn(replace(REGISTERED, status="voiding")))
    .when(UndoRefused(VOID_THERE, "captured"))
    .then(withdrawn(replace(REGISTERED, status="refunding")), REFUND_THERE),
    given(withdrawn(replace(REGISTERED, status="refunding")))
    .when(UndoRefused(REFUND_THERE, "card_closed"))
    .then(withdrawn(replace(REGISTERED, status="crediting")), CREDIT_NOTE_THERE),
)

# What is pending ends when the provider says so, or when it is asked, whichever comes first.
FOLLOW = Follow(order_id=ORDER, what="authorisation", **THERE)
FOLLOW_REFUND = Follow(order_id=ORDER, what="refund", **THERE)
LOOK = FOLLOW.model_copy(update={"once": True})
LOOK_AT_REFUND = FOLLOW_REFUND.model_copy(update={"once": True})
PENDING = replace(REGISTERED, status="authorisation_pending")
CAPTURING_THERE = replace(REGISTERED, status="capturing")
CAPTURED_THERE = replace(REGISTERED, status="captured")
REFUNDING_THERE = withdrawn(replace(REGISTERED, status="refunding"))
REFUND_PENDING = replace(REFUNDING_THERE, status="refund_pending")
REFUNDED_THERE = replace(REFUNDING_THERE, status="refunded")
OWN_REFUND_PENDING = replace(REGISTERED, status="refund_pending", reason="provider_unavailable")
SETTLED_THERE = replace(REFUNDED_THERE, settled_by=PERSON)
FAILED_LATE = replace(REFUNDED_THERE, status="refund_failed", round=2, reversed=True)
IN_THE_END = (Stands("authorised"), Stands("declined", "do_not_honor"), Stands("refunded"))


def notified(about: About, provider_payment: str = "pi_1") -> Notified:
    return Notified(order_id=ORDER, event_id=UUID(int=7), provider_payment=provider_payment, about=about)


ABOUT_AUTHORISATION, ABOUT_REFUND, ABOUT_DISPUTE = map(notified, get_args(About))
EVERYTHING = (ABOUT_AUTHORISATION, ABOUT_REFUND, ABOUT_DISPUTE)

PENDING_THERE = rows(
    given(REGISTERED).when(Pending("processing")).then(PENDING, payment_pending(), FOLLOW),
    given(withdrawn(REGISTERED))
    .when(Pending("processing"))
    .then(withdrawn(PENDING), payment_pending(), FOLLOW),
    given(PENDING).when(Stands("authorised")).then(replace(REGISTERED, status="capturing"), CAPTURE_THERE),
    given(PENDING)
    .when(Stands("declined", "do_not_honor"))
    .then(replace(REGISTERED, status="declined", reason="do_not_honor"), payment_declined("do_not_honor")),
    given(PENDING).when(Stands("pending"), Stands("captured")).nothing(),
    given(PENDING)
    .when(*given_up(FOLLOW))
    .then(replace(REGISTERED, status="voiding", reason="provider_unavailable"), VOID_THERE),
    # What is pending cannot be called back: the saga is told so, once, and it is undone when it is known.
    given(PENDING)
    .when(SHIPMENT_CANCELLED)
    .then(withdrawn(PENDING), payment_refund_pending("authorisation_pending")),
    given(PENDING)
    .when(SHIPMENT_REJECTED)
    .then(withdrawn(PENDING, "address_not_served"), payment_refund_pending("authorisation_pending")),
    given(withdrawn(PENDING)).when(SHIPMENT_CANCELLED, SHIPMENT_REJECTED).nothing(),
    given(withdrawn(PENDING))
    .when(Stands("authorised"))
    .then(withdrawn(replace(REGISTERED, status="voiding")), VOID_THERE),
    given(withdrawn(PENDING))
    .when(Stands("declined", "do_not_honor"))
    .then(withdrawn(replace(REGISTERED, status="refunded")), payment_refunded("nothing_charged")),
    given(REFUNDING_THERE)
    .when(Pending("refund_pending"))
    .then(REFUND_PENDING, payment_refund_pending(), FOLLOW_REFUND),
    given(REFUND_PENDING).when(Stands("refunded")).then(REFUNDED_THERE, payment_refunded("refund")),
    given(REFUND_PENDING).when(Stands("credited")).then(REFUNDED_THERE, payment_refunded("credit_note")),
    given(REFUND_PENDING)
    .when(Stands("refund_failed", "card_closed"))
    .then(replace(REFUNDING_THERE, status="crediting"), CREDIT_NOTE_THERE),
    given(REFUND_PENDING).when(Stands("pending"), Stands("refunded", round=2)).nothing(),
    given(REFUND_PENDING)
    .when(*given_up(FOLLOW))
    .then(
        replace(REFUND_PENDING, status="refund_failed", retry_with="refund"),
        payment_refund_failed("follow: timeout"),
    ),
    given(OWN_REFUND_PENDING)
    .when(Stands("refunded"))
    .then(replace(OWN_REFUND_PENDING, status="declined"), payment_declined("provider_unavailable")),
    given(REFUND_PENDING, OWN_REFUND_PENDING).when(SHIPMENT_CANCELLED, SHIPMENT_REJECTED).nothing(),
    given(PENDING, REFUND_PENDING).when(STOCK_RESERVED, APPROVE, REJECT, APPROVAL_EXPIRED).nothing(),
    given(PENDING, REFUND_PENDING).when(RETRY, SETTLE).nothing(),
    # It was asked for as well, and the answer comes when all is over.
    given(replace(REGISTERED, status="capturing"), replace(REFUNDING_THERE, status="crediting"))
    .when(*IN_THE_END, *given_up(FOLLOW))
    .nothing(),
)

# Events say that something became of a payment, and never what: that is read, where it may matter.
NOTIFIED_BY_THE_PROVIDER = rows(
    given(PENDING).when(ABOUT_AUTHORISATION).then(PENDING, LOOK),
    given(PENDING).when(ABOUT_REFUND, ABOUT_DISPUTE).nothing(),
    given(REFUND_PENDING).when(ABOUT_REFUND).then(REFUND_PENDING, LOOK_AT_REFUND),
    given(REFUND_PENDING).when(ABOUT_AUTHORISATION).nothing(),
    given(REFUND_PENDING).when(ABOUT_DISPUTE).then(REFUND_PENDING, LOOK_AT_REFUND),
    given(REFUNDED_THERE).when(ABOUT_REFUND, ABOUT_DISPUTE).then(REFUNDED_THERE, LOOK_AT_REFUND),
    given(CAPTURED_THERE).when(ABOUT_DISPUTE).then(CAPTURED_THERE, LOOK_AT_REFUND),
    given(CAPTURED_THERE).when(ABOUT_AUTHORISATION, ABOUT_REFUND).nothing(),
    given(CAPTURED_THERE).when(*(notified(about, "pi_other") for about in get_args(About))).nothing(),
    given(REGISTERED, REGISTERING).when(*EVERYTHING).nothing(),
    # Its event overtakes the answer to the capture, or comes while the money goes back.
    given(CAPTURING_THERE).when(ABOUT_DISPUTE).then(CAPTURING_THERE, LOOK_AT_REFUND),
    given(CAPTURING_THERE).when(ABOUT_AUTHORISATION, ABOUT_REFUND).nothing(),
    given(REFUNDING_THERE).when(ABOUT_DISPUTE).then(REFUNDING_THERE, LOOK_AT_REFUND),
    given(REFUNDING_THERE).when(ABOUT_AUTHORISATION, ABOUT_REFUND).nothing(),
    given(None, HELD, FENCED, DECLINED, VOIDING, REFUNDING, CREDITING, REFUND_FAILED)
    .when(*EVERYTHING)
    .nothing(),
)

# Days after all was over: the refund did not come, or the customer's bank took the money back.
LATE_FACTS = rows(
    given(REFUNDED_THERE)
    .when(Stands("refund_failed", "lost_card"))
    .then(FAILED_LATE, payment_refund_reversed("refund: lost_card")),
    given(FAILED_LATE).when(Stands("refund_failed", "lost_card")).nothing(),
    given(FAILED_LATE)
    .when(RETRY)
    .then(replace(FAILED_LATE, status="voiding"), VOID_THERE.model_copy(update={"round": 2})),
    given(FAILED_LATE)
    .when(SETTLE)
    .then(replace(FAILED_LATE, status="refunded", settled_by=PERSON), SETTLED_BY_HAND),
    given(replace(OWN_REFUND_PENDING, status="declined"))
    .when(Stands("refund_failed", "lost_card"))
    .then(
        replace(OWN_REFUND_PENDING, status="refund_failed", round=2, reversed=True),
        payment_refund_reversed("refund: lost_card"),
    ),
    # A person gave the money back, or it is another round's refund: nothing is missing.
    given(SETTLED_THERE, in_round(2, REFUNDED_THERE)).when(Stands("refund_failed", "lost_card")).nothing(),
    given(REFUNDED_THERE).when(Stands("refunded"), Stands("credited"), Stands("captured")).nothing(),
    given(CAPTURED_THERE)
    .when(Stands("captured", disputed="disputed"))
    .then(replace(CAPTURED_THERE, disputed=True), payment_disputed()),
    given(replace(CAPTURED_THERE, disputed=True)).when(Stands("captured", disputed="disputed")).nothing(),
    # Asked in the round before: that it is disputed is so in every round.
    given(in_round(2, REFUNDED_THERE))
    .when(Stands("refunded", disputed="disputed"))
    .then(replace(in_round(2, REFUNDED_THERE), disputed=True), payment_disputed()),
    given(None).when(Stands("refunded")).nothing(),
)

TABLE = rows(REGISTERING_FIRST, PENDING_THERE, NOTIFIED_BY_THE_PROVIDER, LATE_FACTS)


@every(TABLE)
def test_payment(row: Row) -> None:
    row.check(SERVICE["payment"].decide)


def test_a_payment_is_begun_with_the_provider_of_the_settings() -> None:
    begun = decide(None, STOCK_RESERVED, approval_limits_minor={DEFAULT: LIMIT_MINOR}, provider="stripe")
    assert begun == Decision(REGISTERING, calls=(REGISTER,))
    held = decide(
        None,
        stock_reserved(ABOVE_LIMIT_MINOR),
        approval_limits_minor={DEFAULT: LIMIT_MINOR},
        provider="stripe",
    )
    assert held.state == replace(HELD, provider="stripe")
