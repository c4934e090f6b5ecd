"""One row per order whose customer is notified."""

from sqlalchemy import CheckConstraint, Column, Integer, MetaData, Table, Text, Uuid

from events.storage.repository import OrderRepository
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
    Column("customer", Text),
    Column("cancelled_because", Text),
    Column("email_round", Integer, nullable=False, server_default="1"),
    Column("push_round", Integer, nullable=False, server_default="1"),
    Column("settled_by", Text),
    CheckConstraint("ending IN ('confirmed', 'cancelled')", name="known_ending"),
    CheckConstraint("status IN ('sending', 'notified', 'failed')", name="known_status"),
    # A row changes a few times, soon: with room for that in its page, its index does not.
    postgresql_with={"fillfactor": 60},
)

NOTICES = OrderRepository(notices, Notice, final=("notified", "failed"))
