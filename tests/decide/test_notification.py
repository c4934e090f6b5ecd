"""notification_svc: one channel that reached the customer is enough, and no failure undoes anything.

A customer who could not be told is told again, or was told by a person, when a person says so.
"""

from dataclasses import replace

from events.facts.notification import Ending
from notification_svc.decide import Bounced, Delivered, Notice, SendEmail, SendPush, Undeliverable, decide
from tests.decide.given import (
    CUSTOMER,
    ORDER,
    ORDER_CANCELLED,
    ORDER_CONFIRMED,
    PERSON,
    asked_of_others,
    customer_notified,
    mail_bounced,
    notification_failed,
    retry_requested,
    settled,
)
from tests.decide.table import Row, every, given, given_up, rows


def email(ending: Ending, reason: str | None = None, number: int = 1) -> SendEmail:
    return SendEmail(order_id=ORDER, customer=CUSTOMER, ending=ending, reason=reason, round=number)


def push(ending: Ending, reason: str | None = None, number: int = 1) -> SendPush:
    return SendPush(order_id=ORDER, customer=CUSTOMER, ending=ending, reason=reason, round=number)


SENDING = Notice(ORDER, "sending", "confirmed", customer=CUSTOMER)
OF_A_CANCELLATION = replace(SENDING, ending="cancelled", cancelled_because="timed_out")
MAIL_ARRIVED = replace(SENDING, email="delivered")
PUSH_ARRIVED = replace(SENDING, push="delivered")
MAIL_BOUNCED = replace(SENDING, email="undeliverable", reason="email: bounced", email_round=2)
MAIL_LOST = replace(SENDING, email="undeliverable", reason="email: timeout")
NO_DEVICE = replace(SENDING, push="undeliverable", reason="push: no_device", push_round=2)
BOTH_ARRIVED = replace(MAIL_ARRIVED, push="delivered", status="notified")
ONLY_MAIL = replace(NO_DEVICE, email="delivered", status="notified")
ONLY_PUSH = replace(MAIL_BOUNCED, push="delivered", status="notified")
UNREACHED = replace(
    MAIL_BOUNCED,
    push="undeliverable",
    push_round=2,
    status="failed",
    reason="email: bounced; push: no_device",
)
NOTIFIED_BY_HAND = replace(UNREACHED, status="notified", settled_by=PERSON)
MAIL_MAYBE_REACHED = replace(UNREACHED, email_round=1, reason="email: timeout; push: no_device")

BY_MAIL, BY_PUSH = Delivered("email"), Delivered("push")
BOUNCES, HAS_NO_DEVICE = Undeliverable("email", "bounced"), Undeliverable("push", "no_device")

TELLING = rows(
    given(None).when(ORDER_CONFIRMED).then(SENDING, email("confirmed"), push("confirmed")),
    given(None)
    .when(ORDER_CANCELLED)
    .then(OF_A_CANCELLATION, email("cancelled", "timed_out"), push("cancelled", "timed_out")),
    given(SENDING, MAIL_BOUNCED, ONLY_MAIL, UNREACHED).when(ORDER_CONFIRMED, ORDER_CANCELLED).nothing(),
)

REACHING = rows(
    given(SENDING).when(BY_MAIL).then(MAIL_ARRIVED),
    given(SENDING).when(BY_PUSH).then(PUSH_ARRIVED),
    given(MAIL_ARRIVED).when(BY_PUSH).then(BOTH_ARRIVED, customer_notified("confirmed", "email", "push")),
    given(PUSH_ARRIVED).when(BY_MAIL).then(BOTH_ARRIVED, customer_notified("confirmed", "email", "push")),
    given(NO_DEVICE).when(BY_MAIL).then(ONLY_MAIL, customer_notified("confirmed", "email")),
    given(MAIL_BOUNCED).when(BY_PUSH).then(ONLY_PUSH, customer_notified("confirmed", "push")),
    given(replace(MAIL_BOUNCED, ending="cancelled"))
    .when(BY_PUSH)
    .then(replace(ONLY_PUSH, ending="cancelled"), customer_notified("cancelled", "push")),
)

FAILING = rows(
    given(SENDING).when(BOUNCES).then(MAIL_BOUNCED),
    given(SENDING).when(HAS_NO_DEVICE).then(NO_DEVICE),
    given(MAIL_ARRIVED).when(HAS_NO_DEVICE).then(ONLY_MAIL, customer_notified("confirmed", "email")),
    given(MAIL_BOUNCED)
    .when(HAS_NO_DEVICE)
    .then(UNREACHED, notification_failed("confirmed", "email: bounced; push: no_device")),
    given(SENDING).when(*given_up(email("confirmed"))).then(MAIL_LOST),
    given(MAIL_LOST)
    .when(HAS_NO_DEVICE)
    .then(MAIL_MAYBE_REACHED, notification_failed("confirmed", "email: timeout; push: no_device")),
    given(SENDING)
    .when(*given_up(push("confirmed"), "r" * 300))
    .then(replace(SENDING, push="undeliverable", reason=f"push: {'r' * 194}")),
    given(replace(NO_DEVICE, reason=f"push: {'r' * 194}"))
    .when(BOUNCES)
    .then(
        replace(UNREACHED, reason=f"push: {'r' * 194}"),
        notification_failed("confirmed", f"push: {'r' * 194}"),
    ),
    given(None, BOTH_ARRIVED, UNREACHED).when(BY_MAIL, BY_PUSH, BOUNCES, HAS_NO_DEVICE).nothing(),
)

RETRY, SETTLE = retry_requested("notification"), settled("notification")

TRYING_AGAIN = rows(
    # Refused: again under new keys.
    given(UNREACHED)
    .when(RETRY)
    .then(
        replace(SENDING, email_round=2, push_round=2),
        email("confirmed", number=2),
        push("confirmed", number=2),
    ),
    # Given up on, and perhaps sent: the same mail, that it may be recognised.
    given(MAIL_MAYBE_REACHED)
    .when(RETRY)
    .then(replace(SENDING, push_round=2), email("confirmed"), push("confirmed", number=2)),
    given(replace(UNREACHED, ending="cancelled", cancelled_because="timed_out"))
    .when(RETRY)
    .then(
        replace(OF_A_CANCELLATION, email_round=2, push_round=2),
        email("cancelled", "timed_out", 2),
        push("cancelled", "timed_out", 2),
    ),
    # From before there were retries: nobody knows any more whom to tell.
    given(replace(UNREACHED, customer=None))
    .when(RETRY)
    .then(
        replace(UNREACHED, customer=None, reason="customer_not_kept"),
        notification_failed("confirmed", "customer_not_kept"),
    ),
    given(None, SENDING, BOTH_ARRIVED, NOTIFIED_BY_HAND).when(RETRY, SETTLE).nothing(),
    given(None, SENDING, UNREACHED, BOTH_ARRIVED).when(*asked_of_others("notification")).nothing(),
)

SETTLING = rows(
    given(UNREACHED).when(SETTLE).then(NOTIFIED_BY_HAND, customer_notified("confirmed")),
    given(NOTIFIED_BY_HAND).when(BY_MAIL, BY_PUSH, BOUNCES, HAS_NO_DEVICE).nothing(),
)

CAME_BACK, OF_ANOTHER = (Bounced(order_id=ORDER, round=number, reason="5.1.1") for number in (1, 2))
BACK_BEFORE_PUSH = replace(MAIL_BOUNCED, reason="email: bounced: 5.1.1")
ONLY_PUSH_COUNTS = replace(BACK_BEFORE_PUSH, push="delivered", status="notified")
NOBODY_AFTER_ALL = replace(UNREACHED, push_round=2, reason="push: no_device; email: bounced: 5.1.1")
SECOND_MAIL = replace(ONLY_MAIL, email_round=2)

COMING_BACK = rows(
    given(MAIL_ARRIVED).when(CAME_BACK).then(BACK_BEFORE_PUSH),
    given(BOTH_ARRIVED).when(CAME_BACK).then(ONLY_PUSH_COUNTS),
    given(ONLY_MAIL)
    .when(CAME_BACK)
    .then(NOBODY_AFTER_ALL, mail_bounced("confirmed", "push: no_device; email: bounced: 5.1.1")),
    given(replace(ONLY_MAIL, ending="cancelled"))
    .when(CAME_BACK)
    .then(
        replace(NOBODY_AFTER_ALL, ending="cancelled"),
        mail_bounced("cancelled", "push: no_device; email: bounced: 5.1.1"),
    ),
    given(replace(ONLY_MAIL, reason="r" * 200))
    .when(CAME_BACK)
    .then(replace(NOBODY_AFTER_ALL, reason="r" * 200), mail_bounced("confirmed", "r" * 200)),
    # Reported once more, of a mail that is yet to be sent, or of one since which another was sent.
    given(None, SENDING, PUSH_ARRIVED, MAIL_BOUNCED, ONLY_PUSH, UNREACHED, NOTIFIED_BY_HAND)
    .when(CAME_BACK, OF_ANOTHER)
    .nothing(),
    given(NOBODY_AFTER_ALL, BACK_BEFORE_PUSH, ONLY_PUSH_COUNTS, SECOND_MAIL).when(CAME_BACK).nothing(),
    given(MAIL_ARRIVED, BOTH_ARRIVED, ONLY_MAIL).when(OF_ANOTHER).nothing(),
    # Under new keys, as after any refusal.
    given(NOBODY_AFTER_ALL)
    .when(RETRY)
    .then(
        replace(SENDING, email_round=2, push_round=2),
        email("confirmed", number=2),
        push("confirmed", number=2),
    ),
    given(NOBODY_AFTER_ALL)
    .when(SETTLE)
    .then(replace(NOBODY_AFTER_ALL, status="notified", settled_by=PERSON), customer_notified("confirmed")),
)

TABLE = rows(TELLING, REACHING, FAILING, TRYING_AGAIN, SETTLING, COMING_BACK)


@every(TABLE)
def test_notification(row: Row) -> None:
    row.check(decide)
