"""One row per order's shipment."""

from sqlalchemy import Boolean, CheckConstraint, Column, Date, Integer, MetaData, Table, Text, Uuid
from sqlalchemy.dialects.postgresql import JSONB

from events.storage.repository import OrderRepository
from fulfillment_svc.shipment import Shipment

metadata = MetaData()

shipments = Table(
    "shipments",
    metadata,
    Column("order_id", Uuid, primary_key=True),
    Column("status", Text, nullable=False),
    Column("customer", Text),
    Column("lines", JSONB, nullable=False),
    Column("shipment_id", Text),
    Column("deliver_on", Date),
    Column("withdrawn", Boolean, nullable=False),
    Column("reason", Text),
    Column("round", Integer, nullable=False, server_default="1"),
    Column("settled_by", Text),
    Column("carrier", Text, nullable=False, server_default="sandbox"),
    Column("carrier_shipment", Text),
    Column("refund_pending", Boolean, nullable=False, server_default="false"),
    Column("reversed", Boolean, nullable=False, server_default="false"),
    CheckConstraint(
        "status NOT IN ('scheduled', 'dispatching', 'dispatched') OR shipment_id IS NOT NULL",
        name="booked_has_shipment",
    ),
    CheckConstraint(
        "status IN ('booking', 'scheduled', 'rejected', 'cancelling', 'cancelled', 'cancel_failed', "
        "'dispatching', 'dispatched', 'dispatch_failed', 'fenced')",
        name="known_status",
    ),
    # A row changes a few times, soon: with room for that in its page, its index does not.
    postgresql_with={"fillfactor": 60},
)

SHIPMENTS = OrderRepository(shipments, Shipment, final=("dispatched", "rejected", "cancelled", "fenced"))
