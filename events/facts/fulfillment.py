"""What fulfillment_svc publishes about an order's shipment."""

from datetime import date

from events.facts.base import Fact, Person, Reason, SupersededFact, Token


class ShipmentScheduled(Fact, wire="fulfillment.shipment_scheduled.v1"):
    """The carrier has booked the shipment; it leaves once the order is confirmed."""

    shipment_id: Token
    deliver_on: date


class ShipmentRejected(Fact, wire="fulfillment.shipment_rejected.v1"):
    """No shipment was booked, nor ever will be for this order."""

    reason: Reason


class ShipmentCancelled(Fact, wire="fulfillment.shipment_cancelled.v2"):
    """The order was withdrawn, and nothing is or will be shipped for it; a person may have settled that."""

    reason: Reason
    settled_by: Person | None = None


class ShipmentCancelledV1(SupersededFact, wire="fulfillment.shipment_cancelled.v1"):
    """The first shape of `shipment_cancelled`: only fulfilment itself could cancel."""

    reason: Reason

    def upcast(self) -> ShipmentCancelled:
        """The same fact, settled by nobody."""
        return ShipmentCancelled(order_id=self.order_id, reason=self.reason)


class ShipmentCancelFailed(Fact, wire="fulfillment.shipment_cancel_failed.v1", case=True):
    """The carrier would not let go of the shipment: a person has to settle it."""

    reason: Reason


class LabelRefundRejected(Fact, wire="fulfillment.label_refund_rejected.v1", case=True):
    """What the label of a cancelled shipment cost never comes back: a person looks where the goods are."""

    reason: Reason


class ShipmentDispatched(Fact, wire="fulfillment.shipment_dispatched.v2"):
    """The goods are on their way, irreversibly; a person may have seen to that."""

    shipment_id: Token
    settled_by: Person | None = None


class ShipmentDispatchedV1(SupersededFact, wire="fulfillment.shipment_dispatched.v1"):
    """The first shape of `shipment_dispatched`: only fulfilment itself could hand the goods over."""

    shipment_id: Token

    def upcast(self) -> ShipmentDispatched:
        """The same fact, settled by nobody."""
        return ShipmentDispatched(order_id=self.order_id, shipment_id=self.shipment_id)


class ShipmentDispatchFailed(Fact, wire="fulfillment.shipment_dispatch_failed.v1", case=True):
    """The carrier never took a confirmed order's goods: a person has to settle it."""

    reason: Reason
