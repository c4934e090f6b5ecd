"""What notification_svc publishes: the customer is notified, or cannot be, or was not after all."""

from typing import Literal

from events.facts.base import Fact, Reason

Ending = Literal["confirmed", "cancelled"]
Channel = Literal["email", "push"]


class CustomerNotified(Fact, wire="notification.customer_notified.v1"):
    """The customer was notified of the order's ending, over these channels."""

    ending: Ending
    channels: tuple[Channel, ...]


class NotificationFailed(Fact, wire="notification.notification_failed.v1", case=True):
    """No channel reached the customer. Undoes nothing."""

    ending: Ending
    reason: Reason


class MailBounced(Fact, wire="notification.mail_bounced.v1", case=True):
    """The mail that had notified the customer came back, and nothing else reached them. Undoes nothing."""

    ending: Ending
    reason: Reason
