"""The small cast of the tables: one order, and every fact about it.

    given(PLACED).when(SHIPMENT_SCHEDULED).then(CONFIRMED, ORDER_CONFIRMED)
    given(None, FENCED).when(APPROVE, REJECT).nothing()

is a line of a table (see table.py). A constant in capitals is the fact, call or state as it usually is; a
function with its name in small letters builds it with something else in it.
"""

from datetime import date
from uuid import UUID

from compose.system import SERVICES
from events.facts import Fact, Line, fulfillment, inventory, notification, order, payment, saga
from payment_svc.service import DEFAULT_APPROVAL_LIMIT_MINOR

SERVICE = {service.name: service for service in SERVICES}

LIMIT_MINOR = DEFAULT_APPROVAL_LIMIT_MINOR
ORDER = UUID(int=1)
CUSTOMER, TOKEN, CURRENCY = "cust_ada", "tok_ok", "EUR"
PERSON = "grace"
LINES = (Line(sku="apple", quantity=2, amount_minor=300), Line(sku="pear", quantity=1, amount_minor=200))
AMOUNT_MINOR = 500
ABOVE_LIMIT_MINOR = LIMIT_MINOR + 1
SHIPMENT, DELIVER_ON = "shp_1", date(2026, 12, 1)


def order_created(order_id: UUID = ORDER, lines: tuple[Line, ...] = LINES) -> order.OrderCreated:
    return order.OrderCreated(
        order_id=order_id, customer=CUSTOMER, currency=CURRENCY, payment_token=TOKEN, lines=lines
    )


def order_withdrawn(reason: str) -> order.OrderWithdrawn:
    return order.OrderWithdrawn(order_id=ORDER, reason=reason)


def order_cancelled(reason: str) -> order.OrderCancelled:
    return order.OrderCancelled(order_id=ORDER, customer=CUSTOMER, reason=reason)


def stock_reserved(amount_minor: int = AMOUNT_MINOR) -> inventory.StockReserved:
    return inventory.StockReserved(
        order_id=ORDER,
        customer=CUSTOMER,
        currency=CURRENCY,
        payment_token=TOKEN,
        lines=LINES,
        amount_minor=amount_minor,
    )


def stock_rejected(reason: str = "out_of_stock", *skus: str) -> inventory.StockRejected:
    return inventory.StockRejected(order_id=ORDER, reason=reason, skus=skus)


def stock_released(reason: str) -> inventory.StockReleased:
    return inventory.StockReleased(order_id=ORDER, reason=reason)


def payment_declined(
    reason: str = "card_declined", by: str | None = None, note: str | None = None
) -> payment.PaymentDeclined:
    return payment.PaymentDeclined(order_id=ORDER, reason=reason, by=by, note=note)


def payment_refunded(
    undone_by: payment.UndoneBy, reason: str = "timed_out", settled_by: str | None = None
) -> payment.PaymentRefunded:
    return payment.PaymentRefunded(order_id=ORDER, undone_by=undone_by, reason=reason, settled_by=settled_by)


def payment_refund_failed(reason: str) -> payment.PaymentRefundFailed:
    return payment.PaymentRefundFailed(order_id=ORDER, reason=reason)


def payment_pending(reason: str = "processing") -> payment.PaymentPending:
    return payment.PaymentPending(order_id=ORDER, reason=reason)


def payment_refund_pending(reason: str = "refund_pending") -> payment.PaymentRefundPending:
    return payment.PaymentRefundPending(order_id=ORDER, reason=reason)


def payment_refund_reversed(reason: str) -> payment.PaymentRefundReversed:
    return payment.PaymentRefundReversed(order_id=ORDER, reason=reason)


def payment_disputed(reason: str = "disputed") -> payment.PaymentDisputed:
    return payment.PaymentDisputed(order_id=ORDER, reason=reason)


def shipment_rejected(reason: str = "address_not_served") -> fulfillment.ShipmentRejected:
    return fulfillment.ShipmentRejected(order_id=ORDER, reason=reason)


def shipment_cancelled(
    reason: str = "timed_out", settled_by: str | None = None
) -> fulfillment.ShipmentCancelled:
    return fulfillment.ShipmentCancelled(order_id=ORDER, reason=reason, settled_by=settled_by)


def shipment_cancel_failed(reason: str) -> fulfillment.ShipmentCancelFailed:
    return fulfillment.ShipmentCancelFailed(order_id=ORDER, reason=reason)


def label_refund_rejected(reason: str) -> fulfillment.LabelRefundRejected:
    return fulfillment.LabelRefundRejected(order_id=ORDER, reason=reason)


def shipment_dispatched(settled_by: str | None = None) -> fulfillment.ShipmentDispatched:
    return fulfillment.ShipmentDispatched(order_id=ORDER, shipment_id=SHIPMENT, settled_by=settled_by)


def shipment_dispatch_failed(reason: str) -> fulfillment.ShipmentDispatchFailed:
    return fulfillment.ShipmentDispatchFailed(order_id=ORDER, reason=reason)


def customer_notified(
    ending: notification.Ending, *channels: notification.Channel
) -> notification.CustomerNotified:
    return notification.CustomerNotified(order_id=ORDER, ending=ending, channels=channels)


def notification_failed(ending: notification.Ending, reason: str) -> notification.NotificationFailed:
    return notification.NotificationFailed(order_id=ORDER, ending=ending, reason=reason)


def mail_bounced(ending: notification.Ending, reason: str) -> notification.MailBounced:
    return notification.MailBounced(order_id=ORDER, ending=ending, reason=reason)


def retry_requested(service: str) -> saga.RetryRequested:
    return saga.RetryRequested(order_id=ORDER, service=service, by=PERSON, note="try again")


def settled(service: str) -> saga.Settled:
    return saga.Settled(order_id=ORDER, service=service, by=PERSON, note="done by hand")


def asked_of_others(service: str) -> tuple[Fact, ...]:
    """What a person may ask of any other service."""
    others = [other for other in SERVICE if other != service]
    return tuple(ask(other) for other in others for ask in (retry_requested, settled))


ORDER_CREATED = order_created()
# The same order with something else in it, each time.
CONTRADICTING = tuple(
    ORDER_CREATED.model_copy(update=other)
    for other in (
        {"lines": LINES[:1]},
        {"lines": (LINES[0].model_copy(update={"amount_minor": 301}), LINES[1])},
        {"customer": "cust_eve"},
        {"currency": "USD"},
        {"payment_token": "tok_other"},
    )
)
ORDER_CONFIRMED = order.OrderConfirmed(
    order_id=ORDER, customer=CUSTOMER, amount_minor=AMOUNT_MINOR, currency=CURRENCY
)
ORDER_WITHDRAWN = order_withdrawn("timed_out")
ORDER_CANCELLED = order_cancelled("timed_out")
STOCK_RESERVED = stock_reserved()
STOCK_REJECTED = stock_rejected()
STOCK_RELEASED = stock_released("timed_out")
STOCK_SOLD = inventory.StockSold(order_id=ORDER)
PAYMENT_HELD = payment.PaymentHeld(
    order_id=ORDER, amount_minor=ABOVE_LIMIT_MINOR, currency=CURRENCY, limit_minor=LIMIT_MINOR
)
PAYMENT_APPROVED = payment.PaymentApproved(order_id=ORDER, by=PERSON, note="known customer")
PAYMENT_CAPTURED = payment.PaymentCaptured(
    order_id=ORDER, customer=CUSTOMER, lines=LINES, amount_minor=AMOUNT_MINOR, currency=CURRENCY
)
PAYMENT_DECLINED = payment_declined()
PAYMENT_REFUNDED = payment_refunded("refund")
SHIPMENT_SCHEDULED = fulfillment.ShipmentScheduled(
    order_id=ORDER, shipment_id=SHIPMENT, deliver_on=DELIVER_ON
)
SHIPMENT_REJECTED = shipment_rejected()
SHIPMENT_CANCELLED = shipment_cancelled()
SHIPMENT_DISPATCHED = shipment_dispatched()
SAGA_REDRIVEN = saga.SagaRedriven(order_id=ORDER, service="payment", redriven_id=UUID(int=2))
SAGA_TIMED_OUT = saga.SagaTimedOut(
    order_id=ORDER,
    waiting_for="payment.captured",
    customer=CUSTOMER,
    reason="payment late: provider did not answer in time, 4 attempts",
)
SAGA_OVERDUE = saga.SagaOverdue(
    order_id=ORDER, service="payment", because_of_id=UUID(int=2), waiting_for="payment.refunded"
)
APPROVAL_EXPIRED = saga.ApprovalExpired(order_id=ORDER, waited_seconds=604_800)
