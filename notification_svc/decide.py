"""What notification makes of each fact and outcome.

    order.confirmed, order.cancelled -> e-mail and push -> customer_notified, else notification_failed
    a mail comes back later          -> mail_bounced, unless push reached the customer
    saga.retry_requested             -> both again
    saga.settled                     -> a person notified the customer: customer_notified, with no channel

One channel that reached the customer is enough; a failure here undoes nothing.
"""

from dataclasses import dataclass, replace
from typing import Literal, assert_never
from uuid import UUID

from events.decision import Call, Command, Decision, GaveUp, Outcome
from events.facts.base import Reason, Token
from events.facts.notification import Channel, CustomerNotified, Ending, MailBounced, NotificationFailed
from events.facts.order import OrderCancelled, OrderConfirmed
from events.facts.saga import RetryRequested, Settled

NAME = "notification"
CUSTOMER_NOT_KEPT = "customer_not_kept"
CAME_BACK = "bounced"


class Bounced(Command):
    """A mail that the mail server had taken came back: that of this round. `reason` is a status, no text."""

    round: int
    reason: str


class SendEmail(Call, name="send_email", retry_policy="message"):
    """Write to the customer, whose address the directory knows."""

    customer: Token
    ending: Ending
    reason: Reason | None = None


class SendPush(Call, name="send_push", retry_policy="message"):
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
Subscribes = OrderConfirmed | OrderCancelled | RetryRequested | Settled
Outcomes = Delivered | Undeliverable | GaveUp[Calls]
Publishes = CustomerNotified | NotificationFailed | MailBounced
Progress = Literal["sending", "delivered", "undeliverable"]


@dataclass(frozen=True, slots=True)
class Notice:
    """What one customer is notified of about one order, and how far each channel has come.

    `reason` is why channels failed. `email_round`, `push_round`: under which key the next attempt is made,
    another after every refusal. `customer` is None in a row from before there were retries.
    """

    order_id: UUID
    status: Literal["sending", "notified", "failed"]
    ending: Ending
    email: Progress = "sending"
    push: Progress = "sending"
    reason: str | None = None
    customer: str | None = None
    cancelled_because: str | None = None
    email_round: int = 1
    push_round: int = 1
    settled_by: str | None = None


Decided = Decision[Notice | None, Publishes, Calls]


def decide(
    notice: Notice | None, message: Subscribes | Outcomes | Bounced
) -> Decision[Notice | None, Publishes, Calls]:
    match message:
        case OrderConfirmed():
            return tell(notice, message)
        case OrderCancelled():
            return tell(notice, message)
        case RetryRequested() | Settled():
            return take_up(notice, message)
        case Delivered(channel):
            return advance(notice, channel, "delivered")
        case Undeliverable(channel, reason):
            return advance(notice, channel, "undeliverable", reason, refused=True)
        case Bounced():
            return bounce(notice, message)
        case GaveUp():
            return advance(notice, channel_of(message.call), "undeliverable", message.reason)
        case _:
            assert_never(message)


def tell(notice: Notice | None, ended: OrderConfirmed | OrderCancelled) -> Decided:
    if notice is not None:
        return Decision(notice)
    if isinstance(ended, OrderConfirmed):
        confirmed = Notice(ended.order_id, "sending", "confirmed", customer=ended.customer)
        return send(confirmed, ended.customer)
    cancelled = Notice(
        ended.order_id, "sending", "cancelled", customer=ended.customer, cancelled_because=ended.reason
    )
    return send(cancelled, ended.customer)


def send(notice: Notice, customer: Token) -> Decided:
    email = SendEmail(
        order_id=notice.order_id,
        round=notice.email_round,
        customer=customer,
        ending=notice.ending,
        reason=notice.cancelled_because,
    )
    push = SendPush(
        order_id=notice.order_id,
        round=notice.push_round,
        customer=customer,
        ending=notice.ending,
        reason=notice.cancelled_because,
    )
    return Decision(notice, calls=(email, push))


def take_up(notice: Notice | None, asked: RetryRequested | Settled) -> Decided:
    """What a person has it do about a customer who could not be notified."""
    if notice is None or notice.status != "failed" or asked.service != NAME:
        return Decision(notice)
    if isinstance(asked, Settled):
        return be_notified(replace(notice, settled_by=asked.by), channels=())
    if notice.customer is None:
        return fail(replace(notice, reason=CUSTOMER_NOT_KEPT))
    again = replace(notice, status="sending", email="sending", push="sending", reason=None)
    return send(again, notice.customer)


def channel_of(call: Calls) -> Channel:
    return "email" if isinstance(call, SendEmail) else "push"


def bounce(notice: Notice | None, bounced: Bounced) -> Decided:
    """Only of the mail that counts: another one was sent since, or is still under way."""
    if notice is None or notice.email != "delivered" or bounced.round != notice.email_round:
        return Decision(notice)
    reason = f"{CAME_BACK}: {bounced.reason}"
    if notice.status != "notified":
        return advance(notice, "email", "undeliverable", reason, refused=True)
    undelivered = replace(
        noting(notice, "email", reason), email="undeliverable", email_round=notice.email_round + 1
    )
    if notice.push == "delivered":
        return Decision(undelivered)
    failed = MailBounced(
        order_id=notice.order_id, ending=notice.ending, reason=undelivered.reason or CAME_BACK
    )
    return Decision(replace(undelivered, status="failed"), facts=(failed,))


def noting(notice: Notice, channel: Channel, reason: str) -> Notice:
    """With why this channel failed, behind why others did."""
    failure = f"{channel}: {reason}"
    return replace(notice, reason=f"{notice.reason}; {failure}"[:200] if notice.reason else failure[:200])


def advance(
    notice: Notice | None, channel: Channel, to: Progress, reason: str | None = None, *, refused: bool = False
) -> Decided:
    if notice is None or notice.status != "sending":
        return Decision(notice)
    if reason is not None:
        notice = noting(notice, channel, reason)
    if channel == "email":
        notice = replace(notice, email=to, email_round=notice.email_round + refused)
    else:
        notice = replace(notice, push=to, push_round=notice.push_round + refused)
    if "sending" in (notice.email, notice.push):
        return Decision(notice)
    reached: list[tuple[Channel, Progress]] = [("email", notice.email), ("push", notice.push)]
    channels = tuple(name for name, progress in reached if progress == "delivered")
    return be_notified(notice, channels) if channels else fail(notice)


def be_notified(notice: Notice, channels: tuple[Channel, ...]) -> Decided:
    notified = CustomerNotified(order_id=notice.order_id, ending=notice.ending, channels=channels)
    return Decision(replace(notice, status="notified"), facts=(notified,))


def fail(notice: Notice) -> Decided:
    failed = NotificationFailed(
        order_id=notice.order_id, ending=notice.ending, reason=notice.reason or "unknown"
    )
    return Decision(replace(notice, status="failed"), facts=(failed,))
