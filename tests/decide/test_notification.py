"""notification_svc: one channel that reached the customer is enough, and no failure undoes anything."""

from dataclasses import replace

from events.facts.notification import Ending
from notification_svc.decide import Delivered, Notice, SendEmail, SendPush, Undeliverable, decide
from tests.decide.given import (
    CUSTOMER,
    ORDER,
    ORDER_CANCELLED,
    ORDER_CONFIRMED,
    customer_notified,
    notification_failed,
)
from tests.decide.table import Row, every, given, given_up, rows


def email(ending: Ending, reason: str | None = None) -> SendEmail:
    return SendEmail(order_id=ORDER, customer=CUSTOMER, ending=ending, reason=reason)


def push(ending: Ending, reason: str | None = None) -> SendPush:
    return SendPush(order_id=ORDER, customer=CUSTOMER, ending=ending, reason=reason)


SENDING = Notice(ORDER, "sending", "confirmed")
MAIL_ARRIVED = replace(SENDING, email="delivered")
PUSH_ARRIVED = replace(SENDING, push="delivered")
MAIL_BOUNCED = replace(SENDING, email="undeliverable", reason="email: bounced")
NO_DEVICE = replace(SENDING, push="undeliverable", reason="push: no_device")
BOTH_ARRIVED = replace(MAIL_ARRIVED, push="delivered", status="notified")
ONLY_MAIL = replace(NO_DEVICE, email="delivered", status="notified")
ONLY_PUSH = replace(MAIL_BOUNCED, push="delivered", status="notified")
UNREACHED = replace(
    MAIL_BOUNCED, push="undeliverable", status="failed", reason="email: bounced; push: no_device"
)

BY_MAIL, BY_PUSH = Delivered("email"), Delivered("push")
BOUNCES, HAS_NO_DEVICE = Undeliverable("email", "bounced"), Undeliverable("push", "no_device")

TELLING = rows(
    given(None).when(ORDER_CONFIRMED).then(SENDING, email("confirmed"), push("confirmed")),
    given(None)
    .when(ORDER_CANCELLED)
    .then(
        Notice(ORDER, "sending", "cancelled"), email("cancelled", "timed_out"), push("cancelled", "timed_out")
    ),
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
    given(MAIL_ARRIVED)
    .when(HAS_NO_DEVICE)
    .then(replace(ONLY_MAIL, reason="push: no_device"), customer_notified("confirmed", "email")),
    given(MAIL_BOUNCED)
    .when(HAS_NO_DEVICE)
    .then(UNREACHED, notification_failed("confirmed", "email: bounced; push: no_device")),
    given(SENDING)
    .when(*given_up(email("confirmed")))
    .then(replace(SENDING, email="undeliverable", reason="email: timeout")),
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

TABLE = rows(TELLING, REACHING, FAILING)


@every(TABLE)
def test_notification(row: Row) -> None:
    row.check(decide)
