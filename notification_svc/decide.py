"""What notification makes of each fact and outcome.

    order.confirmed, order.cancelled -> e-mail and push -> customer_notified, else notification_failed

One channel that reached the customer is enough; a failure here undoes nothing.
"""

from dataclasses import dataclass, replace
from typing import Literal, assert_never
from uuid import UUID

from events.decision import Call, Decision, GaveUp, Outcome
from events.facts.base import Reason, Token
from events.facts.notification import Channel, CustomerNotified, Ending, NotificationFailed
from events.facts.order import OrderCancelled, OrderConfirmed


class SendEmail(Call, name="send_email"):
    """Write to the customer, whose address the directory knows."""

    customer: Token
    ending: Ending
    reason: Reason | None = None


class SendPush(Call, name="send_push"):
    """Show a message on the customer's device, if the directory knows one."""

    customer: Token
    ending: Ending
    reason: Reason | None = None


@dataclass(frozen=True, slots=True)
class Delivered(Outcome):
    channel: Channel


@dataclass(frozen=True, slots=True)
class Undeliverable(Outcome):
    """This channel will never reach the customer: no device, no such mailbox, no such customer."""

    channel: Channel
    reason: str


Calls = SendEmail | SendPush
Hears = OrderConfirmed | OrderCancelled
Learns = Delivered | Undeliverable | GaveUp[Calls]
States = CustomerNotified | NotificationFailed
Progress = Literal["sending", "delivered", "undeliverable"]


@dataclass(frozen=True, slots=True)
class Notice:
    """What one customer is told of one order, and how far each channel has come."""

    order_id: UUID
    status: Literal["sending", "notified", "failed"]
    ending: Ending
    email: Progress = "sending"
    push: Progress = "sending"
    reason: str | None = None


Answer = Decision[Notice | None, States, Calls]


def decide(notice: Notice | None, heard: Hears | Learns) -> Decision[Notice | None, States, Calls]:
    match heard:
        case OrderConfirmed():
            return tell(notice, heard.order_id, heard.customer, "confirmed")
        case OrderCancelled():
            return tell(notice, heard.order_id, heard.customer, "cancelled", heard.reason)
        case Delivered(channel):
            return advance(notice, channel, "delivered")
        case Undeliverable(channel, reason):
            return advance(notice, channel, "undeliverable", reason)
        case GaveUp():
            return advance(notice, channel_of(heard.call), "undeliverable", heard.reason)
        case _:
            assert_never(heard)


def tell(
    notice: Notice | None, order_id: UUID, customer: Token, ending: Ending, reason: str | None = None
) -> Answer:
    if notice is not None:
        return Decision(notice)
    email = SendEmail(order_id=order_id, customer=customer, ending=ending, reason=reason)
    push = SendPush(order_id=order_id, customer=customer, ending=ending, reason=reason)
    return Decision(Notice(order_id, "sending", ending), calls=(email, push))


def channel_of(call: Calls) -> Channel:
    return "email" if isinstance(call, SendEmail) else "push"


def advance(notice: Notice | None, channel: Channel, to: Progress, reason: str | None = None) -> Answer:
    if notice is None or notice.status != "sending":
        return Decision(notice)
    if reason is not None:
        told = f"{channel}: {reason}"
        notice = replace(notice, reason=f"{notice.reason}; {told}"[:200] if notice.reason else told[:200])
    notice = replace(notice, email=to) if channel == "email" else replace(notice, push=to)
    if "sending" in (notice.email, notice.push):
        return Decision(notice)
    reached: list[tuple[Channel, Progress]] = [("email", notice.email), ("push", notice.push)]
    channels = tuple(name for name, progress in reached if progress == "delivered")
    if channels:
        notified = CustomerNotified(order_id=notice.order_id, ending=notice.ending, channels=channels)
        return Decision(replace(notice, status="notified"), facts=(notified,))
    failed = NotificationFailed(
        order_id=notice.order_id, ending=notice.ending, reason=notice.reason or "unknown"
    )
    return Decision(replace(notice, status="failed"), facts=(failed,))
