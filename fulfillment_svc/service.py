"""Everything the rest of the system must know of fulfillment_svc, and what its process is made of."""

from collections.abc import Callable
from functools import partial
from typing import Any

from events.decision import Decision
from events.facts.fulfillment import (
    LabelRefundRejected,
    ShipmentCancelFailed,
    ShipmentCancelled,
    ShipmentDispatched,
    ShipmentDispatchFailed,
    ShipmentRejected,
    ShipmentScheduled,
)
from events.facts.order import OrderConfirmed, OrderWithdrawn
from events.facts.payment import PaymentCaptured
from events.facts.saga import RetryRequested, Settled
from events.runtime.definition import ServiceDefinition
from events.service import Step
from fulfillment_svc import api
from fulfillment_svc.decide import NAME, decide
from fulfillment_svc.gateway import FulfillmentSettings, gateways_from
from fulfillment_svc.repository import SHIPMENTS

_CANCELLED = (ShipmentCancelled, ShipmentRejected, ShipmentCancelFailed)
_DISPATCHED = (ShipmentDispatched, ShipmentDispatchFailed)


def _decide_by(settings: FulfillmentSettings) -> Callable[..., Decision[Any, Any, Any]]:
    return partial(decide, carrier=settings.carrier)


SERVICE = ServiceDefinition(
    name=NAME,
    position=4,
    decide=decide,
    decide_by=_decide_by,
    repository=SHIPMENTS,
    settings=FulfillmentSettings,
    gateway=gateways_from,
    routers=(api.router,),
    steps=(
        Step(PaymentCaptured, (ShipmentScheduled, ShipmentRejected, ShipmentCancelFailed)),
        Step(OrderConfirmed, _DISPATCHED),
        # Where it had stopped by itself, it has answered already, with the fact by which it stopped.
        Step(OrderWithdrawn, _CANCELLED),
        # An undo or a dispatch that failed for good: a person resolves it, and the chain goes on from there.
        Step(ShipmentCancelFailed, (ShipmentCancelled, ShipmentRejected), person=True),
        Step(LabelRefundRejected, (ShipmentCancelled, ShipmentRejected), person=True),
        Step(ShipmentDispatchFailed, (ShipmentDispatched,), person=True),
        Step(RetryRequested, (*_CANCELLED, *_DISPATCHED)),
        Step(Settled, (*_CANCELLED, *_DISPATCHED)),
    ),
    step_deadline_seconds=12.0,
    statuses_done=("dispatched",),
    statuses_undone=("none", "rejected", "cancelled", "fenced"),
    statuses_after={
        ShipmentScheduled: ("scheduled", "dispatching", "dispatched", "dispatch_failed"),
        ShipmentRejected: ("rejected",),
        ShipmentCancelled: ("cancelled", "fenced"),
        ShipmentCancelFailed: ("cancel_failed",),
        LabelRefundRejected: ("cancel_failed",),
        ShipmentDispatched: ("dispatched",),
        ShipmentDispatchFailed: ("dispatch_failed",),
    },
)
