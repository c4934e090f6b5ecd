"""Facts of one order for tests: published, or read by the projection, one second apart in this order."""

from datetime import UTC, date, datetime, timedelta
from uuid import UUID, uuid5

from events.facts import Fact, Line
from events.facts.fulfillment import (
    LabelRefundRejected,
    ShipmentCancelFailed,
    ShipmentCancelled,
    ShipmentDispatched,
    ShipmentDispatchFailed,
    ShipmentRejected,
    ShipmentScheduled,
)
from events.facts.inventory import StockRejected, StockReleased, StockReserved, StockSold
from events.facts.notification import CustomerNotified, MailBounced, NotificationFailed
from events.facts.order import OrderCancelled, OrderConfirmed, OrderCreated, OrderWithdrawn
from events.facts.payment import (
    PaymentApproved,
    PaymentCaptured,
    PaymentDeclined,
    PaymentDisputed,
    PaymentHeld,
    PaymentPending,
    PaymentRefunded,
    PaymentRefundFailed,
    PaymentRefundPending,
    PaymentRefundReversed,
)
from events.facts.saga import (
    ApprovalExpired,
    RetryRequested,
    SagaOverdue,
    SagaRedriven,
    SagaTimedOut,
    Settled,
)
from events.messaging.envelope import Envelope
from events.service import name_of
from events.telemetry.tracing import trace_id
from saga_tracker.projection import SagaFact

ORDER = UUID("0b0e8f9c-0000-4000-8000-000000000001")
BEGAN = datetime(2026, 11, 28, 6, 0, tzinfo=UTC)
LINES = (Line(sku="lamp", quantity=2, amount_minor=4_000),)
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def facts_of(order_id: UUID = ORDER) -> dict[str, Fact]:
    """One fact of each name, by a short name of its own."""
    money = {"customer": "cust_1", "amount_minor": 4_000, "currency": "EUR"}
    paid = {"order_id": order_id, "lines": LINES, **money}
    return {
        "created": OrderCreated(
            order_id=order_id, customer="cust_1", currency="EUR", payment_token="tok_ok", lines=LINES
        ),
        "reserved": StockReserved.model_validate({**paid, "payment_token": "tok_ok"}),
        "stock_rejected": StockRejected(order_id=order_id, reason="out_of_stock", skus=("lamp",)),
        "held": PaymentHeld(order_id=order_id, amount_minor=4_000, currency="EUR", limit_minor=1_000),
        "captured": PaymentCaptured.model_validate(paid),
        "declined": PaymentDeclined(order_id=order_id, reason="card_declined"),
        "scheduled": ShipmentScheduled(order_id=order_id, shipment_id="s1", deliver_on=date(2026, 11, 24)),
        "shipment_rejected": ShipmentRejected(order_id=order_id, reason="address_not_served"),
        "confirmed": OrderConfirmed.model_validate({"order_id": order_id, **money}),
        "sold": StockSold(order_id=order_id),
        "dispatched": ShipmentDispatched(order_id=order_id, shipment_id="s1"),
        "dispatch_failed": ShipmentDispatchFailed(order_id=order_id, reason="carrier_gone"),
        "notified": CustomerNotified(order_id=order_id, ending="confirmed", channels=("email",)),
        "not_notified": NotificationFailed(order_id=order_id, ending="confirmed", reason="email: bounced"),
        "timed_out": SagaTimedOut(order_id=order_id, waiting_for="payment.captured"),
        "withdrawn": OrderWithdrawn(order_id=order_id, reason="customer_cancelled"),
        "shipment_cancelled": ShipmentCancelled(order_id=order_id, reason="customer_cancelled"),
        "cancelled_again": ShipmentCancelled(order_id=order_id, reason="customer_cancelled"),
        "cancel_failed": ShipmentCancelFailed(order_id=order_id, reason="carrier_silent"),
        "label_rejected": LabelRefundRejected(order_id=order_id, reason="refund_rejected"),
        "refunded": PaymentRefunded(order_id=order_id, undone_by="refund", reason="address_not_served"),
        "refund_failed": PaymentRefundFailed(order_id=order_id, reason="issue_credit_note: refused"),
        "pending": PaymentPending(order_id=order_id, reason="processing"),
        "refund_pending": PaymentRefundPending(order_id=order_id, reason="refund_pending"),
        "reversed": PaymentRefundReversed(order_id=order_id, reason="refund: lost_card"),
        "disputed": PaymentDisputed(order_id=order_id, reason="disputed"),
        "released": StockReleased(order_id=order_id, reason="card_declined"),
        "cancelled": OrderCancelled(order_id=order_id, customer="cust_1", reason="card_declined"),
        "notified_of_cancellation": CustomerNotified(
            order_id=order_id, ending="cancelled", channels=("push",)
        ),
        "not_notified_of_cancellation": NotificationFailed(
            order_id=order_id, ending="cancelled", reason="email: bounced"
        ),
        "came_back": MailBounced(order_id=order_id, ending="confirmed", reason="email: bounced: 5.1.1"),
        "came_back_of_cancellation": MailBounced(
            order_id=order_id, ending="cancelled", reason="email: bounced: 5.1.1"
        ),
        **_about_lateness(order_id),
        **_from_people(order_id),
    }


def _about_lateness(order_id: UUID) -> dict[str, Fact]:
    reserved, rejected, released, confirmed = (
        uuid5(order_id, name) for name in ("reserved", "shipment_rejected", "released", "confirmed")
    )
    return {
        "redriven": SagaRedriven(order_id=order_id, service="payment", redriven_id=reserved),
        "undo_redriven": SagaRedriven(order_id=order_id, service="payment", redriven_id=rejected),
        "order_redriven": SagaRedriven(order_id=order_id, service="order", redriven_id=released),
        "undo_overdue": SagaOverdue(
            order_id=order_id, service="payment", because_of_id=rejected, waiting_for="payment.refunded"
        ),
        "dispatch_overdue": SagaOverdue(
            order_id=order_id,
            service="fulfillment",
            because_of_id=confirmed,
            waiting_for="fulfillment.shipment_dispatched",
        ),
        "expired": ApprovalExpired(order_id=order_id, waited_seconds=604_800),
    }


def _from_people(order_id: UUID) -> dict[str, Fact]:
    signed = {"order_id": order_id, "by": "grace", "note": "I spoke to them"}
    return {
        "approved": PaymentApproved.model_validate(signed),
        "retried": RetryRequested.model_validate({**signed, "service": "payment"}),
        "reversal_retried": RetryRequested.model_validate({**signed, "service": "payment"}),
        "refunded_again": PaymentRefunded(order_id=order_id, undone_by="credit_note", reason="lost_card"),
        "refund_failed_again": PaymentRefundFailed(order_id=order_id, reason="refund: refused again"),
        "settled": Settled.model_validate({**signed, "service": "payment"}),
        "dispatch_retried": RetryRequested.model_validate({**signed, "service": "fulfillment"}),
        "cancel_settled": Settled.model_validate({**signed, "service": "fulfillment"}),
        "label_retried": RetryRequested.model_validate({**signed, "service": "fulfillment"}),
        "telling_retried": RetryRequested.model_validate({**signed, "service": "notification"}),
        "notified_again": CustomerNotified(order_id=order_id, ending="confirmed", channels=("push",)),
        "telling_once_more": RetryRequested.model_validate({**signed, "service": "notification"}),
        "telling_settled": Settled.model_validate({**signed, "service": "notification"}),
        "telling_of_cancellation_retried": RetryRequested.model_validate(
            {**signed, "service": "notification"}
        ),
    }


def envelopes(names: str, order_id: UUID = ORDER, began: datetime = BEGAN) -> list[Envelope]:
    """The facts of these names, a second apart, each because of the one before it or of that in BECAUSE."""
    by_name = facts_of(order_id)
    published: list[Envelope] = []
    for second, name in enumerate(names.split()):
        published.append(
            Envelope(
                fact_id=uuid5(order_id, name),
                fact=by_name[name],
                stated_by=by_name[name].owner,
                stated_at=began + timedelta(seconds=second),
                causation_id=_causation(order_id, name, published),
                traceparent=TRACEPARENT,
            )
        )
    return published


def _causation(order_id: UUID, name: str, published: list[Envelope]) -> UUID | None:
    if name in BECAUSE:
        return uuid5(order_id, BECAUSE[name])
    return published[-1].fact_id if published else None


def facts_named(names: str) -> list[SagaFact]:
    """The same as the projection is given them."""
    return [
        SagaFact(
            fact_id=envelope.fact_id,
            name=name_of(type(envelope.fact)),
            read_at=envelope.stated_at,
            reason=getattr(envelope.fact, "reason", None) or getattr(envelope.fact, "waiting_for", None),
            ending=getattr(envelope.fact, "ending", None),
            trace_id=trace_id(envelope.traceparent),
            service=getattr(envelope.fact, "service", None),
            about=getattr(envelope.fact, "redriven_id", None)
            or getattr(envelope.fact, "because_of_id", None)
            or envelope.causation_id,
        )
        for envelope in envelopes(names)
    ]


BECAUSE = {
    "redriven": "reserved",
    "undo_redriven": "shipment_rejected",
    "order_redriven": "released",
    "undo_overdue": "shipment_rejected",
    "dispatch_overdue": "confirmed",
    "expired": "held",
    "retried": "refund_failed",
    "reversal_retried": "reversed",
    "settled": "refund_failed_again",
    "label_retried": "label_rejected",
    "dispatch_retried": "dispatch_failed",
    "cancel_settled": "cancel_failed",
    "telling_retried": "not_notified",
    "telling_settled": "not_notified",
    "telling_once_more": "came_back",
    "telling_of_cancellation_retried": "not_notified_of_cancellation",
}
PATHS = {
    "pending, completed": "created reserved pending captured scheduled confirmed sold dispatched notified",
    "pending, declined": "created reserved pending declined released cancelled notified_of_cancellation",
    "refund pending": "created reserved captured shipment_rejected refund_pending refunded released"
    " cancelled notified_of_cancellation",
    "withdrawn while pending": "created reserved pending withdrawn shipment_cancelled refund_pending refunded"
    " released cancelled notified_of_cancellation",
    "completed": "created reserved captured scheduled confirmed sold dispatched notified",
    "completed, customer not told": "created reserved captured scheduled confirmed not_notified"
    " dispatched sold",
    "mail came back": "created reserved captured scheduled confirmed notified sold dispatched came_back",
    "approved": "created reserved held captured scheduled confirmed notified dispatched sold",
    "out of stock": "created stock_rejected cancelled notified_of_cancellation",
    "declined": "created reserved declined released cancelled notified_of_cancellation",
    "not approved": "created reserved held declined released cancelled notified_of_cancellation",
    "carrier refuses": "created reserved captured shipment_rejected refunded released"
    " cancelled notified_of_cancellation",
    "withdrawn at once": "created withdrawn shipment_cancelled refunded released"
    " cancelled notified_of_cancellation",
    "withdrawn while declined": "created reserved withdrawn declined shipment_cancelled released"
    " cancelled notified_of_cancellation",
    "withdrawn, no stock": "created withdrawn stock_rejected shipment_cancelled cancelled"
    " refunded notified_of_cancellation",
    "timed out": "created reserved timed_out withdrawn shipment_cancelled refunded released"
    " cancelled notified_of_cancellation",
    "timed out too late": "created reserved captured scheduled timed_out confirmed sold dispatched notified",
    "refund settled": "created reserved captured shipment_rejected refund_failed refunded released"
    " cancelled notified_of_cancellation",
    "shipment settled": "created captured cancel_failed shipment_rejected refunded released"
    " cancelled notified_of_cancellation",
    "approved by name": "created reserved held approved captured scheduled confirmed notified"
    " dispatched sold",
    "approval expired": "created reserved held expired declined released cancelled notified_of_cancellation",
    "redriven": "created reserved redriven captured scheduled confirmed sold dispatched notified",
    "undo overdue": "created reserved captured shipment_rejected undo_redriven undo_overdue refunded released"
    " cancelled notified_of_cancellation",
    "dispatch overdue": "created reserved captured scheduled confirmed notified sold"
    " dispatch_overdue dispatched",
    "refund retried": "created reserved captured shipment_rejected refund_failed retried refunded released"
    " cancelled notified_of_cancellation",
    "refund retried in vain": "created reserved captured shipment_rejected refund_failed retried"
    " refund_failed_again settled refunded released cancelled notified_of_cancellation",
    "dispatch retried": "created reserved captured scheduled confirmed dispatch_failed dispatch_retried"
    " sold notified dispatched",
    "dispatch settled": "created reserved captured scheduled confirmed sold dispatch_failed"
    " notified dispatched",
}
# A person has something tried again, or has seen to it; the service is yet to say so.
RETOLD = (
    f"{PATHS['completed, customer not told']} telling_retried",
    f"{PATHS['completed, customer not told']} telling_settled",
    f"{PATHS['mail came back']} telling_once_more",
    "created stock_rejected cancelled not_notified_of_cancellation telling_of_cancellation_retried",
    "created reserved captured withdrawn cancel_failed cancel_settled",
    "created scheduled confirmed dispatch_failed dispatch_retried",
    f"{PATHS['carrier refuses']} reversed reversal_retried",
    f"{PATHS['withdrawn at once']} label_rejected label_retried",
)
