"""One row per order that brought points."""

from sqlalchemy import BigInteger, CheckConstraint, Column, MetaData, Table, Text, Uuid

from events.storage.repository import OrderRepository
from loyalty_svc.decide import Grant

metadata = MetaData()

grants = Table(
    "grants",
    metadata,
    Column("order_id", Uuid, primary_key=True),
    Column("status", Text, nullable=False),
    Column("points", BigInteger, nullable=False),
    CheckConstraint("status IN ('granted')", name="known_status"),
)

GRANTS = OrderRepository(grants, Grant, final=("granted",))
