"""Which facts a service must have published, as its state of an order proves. Pure."""

from collections.abc import Mapping
from typing import NamedTuple

from saga_tracker.consistency.snapshot import Service, ServiceState

# The statuses in which a service has stated a fact, or has gone on from there.
STATUSES_AFTER: Mapping[str, tuple[str, ...]] = {
    "order.withdrawn": ("withdrawn", "cancelled"),
    "order.confirmed": ("confirmed",),
    "order.cancelled": ("cancelled",),
    "inventory.stock_reserved": ("reserved", "sold"),
    "inventory.stock_rejected": ("rejected",),
    "inventory.stock_released": ("released", "fenced"),
    "inventory.stock_sold": ("sold",),
    "payment.held": ("held",),
    "payment.approved": (),
    "payment.captured": ("captured",),
    "payment.declined": ("declined",),
    "payment.refunded": ("refunded", "fenced"),
    "payment.refund_failed": ("refund_failed",),
    "fulfillment.shipment_scheduled": ("scheduled", "dispatching", "dispatched", "dispatch_failed"),
    "fulfillment.shipment_rejected": ("rejected",),
    "fulfillment.shipment_cancelled": ("cancelled", "fenced"),
    "fulfillment.shipment_cancel_failed": ("cancel_failed",),
    "fulfillment.shipment_dispatched": ("dispatched",),
    "fulfillment.shipment_dispatch_failed": ("dispatch_failed",),
    "notification.customer_notified": ("notified",),
    "notification.notification_failed": ("failed",),
}
# A status that may have come about without the fact: whoever is cancelled need not have been withdrawn.
_NO_PROOF = {("order.withdrawn", "cancelled")}
_ORDERED = ("placed", "confirmed", "withdrawn", "cancelled")


class Proof(NamedTuple):
    """A fact that was published, as a state proves. `ending`: what a customer was told of."""

    fact: str
    ending: str | None = None


def proofs(states: Mapping[Service, ServiceState]) -> list[Proof]:
    """The facts that these services have published, as far as their states of one order show it."""
    found = [
        Proof(fact, state.ending)
        for fact, statuses in STATUSES_AFTER.items()
        for service, state in states.items()
        if fact.startswith(f"{service}.")
        and state.status in statuses
        and (fact, state.status) not in _NO_PROOF
    ]
    if "order" in states and states["order"].status in _ORDERED:
        found.insert(0, Proof("order.created"))
    return found
