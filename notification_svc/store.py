"""One row per order whose customer is told."""

from sqlalchemy import CheckConstraint, Column, MetaData, Table, Text, Uuid

from events.runtime.states import OrderStates
from notification_svc.decide import Notice

metadata = MetaData()

notices = Table(
    "notices",
    metadata,
    Column("order_id", Uuid, primary_key=True),
    Column("status", Text, nullable=False),
    Column("ending", Text, nullable=False),
    Column("email", Text, nullable=False),
    Column("push", Text, nullable=False),
    Column("reason", Text),
    CheckConstraint("ending IN ('confirmed', 'cancelled')", name="known_ending"),
    CheckConstraint("status IN ('sending', 'notified', 'failed')", name="known_status"),
)

NOTICES = OrderStates(notices, Notice)
