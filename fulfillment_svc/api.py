"""Seeing an order's shipment."""

from datetime import date
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel

from events.http.application import Running
from events.http.authentication import VIEWER
from events.http.problems import Problem
from fulfillment_svc.repository import SHIPMENTS

router = APIRouter(prefix="/shipments", tags=["shipments"], dependencies=[VIEWER])


class ShipmentView(BaseModel):
    """An order's shipment."""

    order_id: UUID
    status: str
    shipment_id: str | None
    deliver_on: date | None
    reason: str | None
    settled_by: str | None
    carrier: str
    refund_pending: bool


@router.get("/{order_id}", responses={404: {"description": "No shipment of such an order is known here"}})
async def see(order_id: UUID, runtime: Running) -> ShipmentView:
    """How an order's shipment stands."""
    shipment = await runtime.database.read(lambda connection: SHIPMENTS.read(connection, order_id))
    if shipment is None:
        raise Problem(404, f"no shipment of order {order_id} is known here")
    return ShipmentView(**{name: getattr(shipment, name) for name in ShipmentView.model_fields})
