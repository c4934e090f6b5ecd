"""What fulfillment_svc states about an order's shipment."""

from datetime import date

from events.facts.base import Fact, Reason, Token


class ShipmentScheduled(Fact, wire="fulfillment.shipment_scheduled.v1"):
    """The carrier has booked the shipment; it leaves once the order is confirmed."""

    shipment_id: Token
    deliver_on: date


class ShipmentRejected(Fact, wire="fulfillment.shipment_rejected.v1"):
    """No shipment was booked, nor ever will be for this order."""

    reason: Reason


class ShipmentCancelled(Fact, wire="fulfillment.shipment_cancelled.v1"):
    """The order was withdrawn, and nothing is or will be shipped for it."""

    reason: Reason


class ShipmentCancelFailed(Fact, wire="fulfillment.shipment_cancel_failed.v1"):
    """The carrier would not let go of the shipment: a person has to settle it."""

    reason: Reason


class ShipmentDispatched(Fact, wire="fulfillment.shipment_dispatched.v1"):
    """The goods are on their way, irreversibly."""

    shipment_id: Token


class ShipmentDispatchFailed(Fact, wire="fulfillment.shipment_dispatch_failed.v1"):
    """The carrier never took a confirmed order's goods: a person has to settle it."""

    reason: Reason
