"""Every fact of the system, one module per owning service."""

from events.facts import fulfillment, inventory, notification, order, payment, saga
from events.facts.base import Fact, Line, SupersededFact, fact_type, published_facts

__all__ = [
    "Fact",
    "Line",
    "SupersededFact",
    "fact_type",
    "fulfillment",
    "inventory",
    "notification",
    "order",
    "payment",
    "published_facts",
    "saga",
]
