"""What a customer is told, in words."""

from dataclasses import dataclass
from typing import assert_never
from uuid import UUID

from events.facts.notification import Ending

# Reasons that mean something to a customer; any other cancellation is told without one.
REASONS = {
    "out_of_stock": "we do not have everything you wanted in stock",
    "unknown_sku": "we do not have everything you wanted in stock",
    "card_declined": "your means of payment was declined",
    "address_not_served": "our carrier does not deliver to your address",
    "customer_cancelled": "you asked us to cancel it",
    "timed_out": "we could not complete it in time",
}


@dataclass(frozen=True, slots=True)
class Message:
    """A title and a sentence or two."""

    title: str
    text: str


def message_for(order_id: UUID, ending: Ending, reason: str | None) -> Message:
    """What to say of an order that ended so."""
    match ending:
        case "confirmed":
            return Message("Your order is confirmed", f"Your order {order_id} is confirmed and will be sent.")
        case "cancelled":
            because = f", because {REASONS[reason]}" if reason in REASONS else ""
            text = f"Your order {order_id} was cancelled{because}. You are not charged for it."
            return Message("Your order was cancelled", text)
        case _:
            assert_never(ending)


def mail_text(name: str, message: Message) -> str:
    """The message as the body of a mail."""
    return f"Hello {name},\n\n{message.text}\n"
