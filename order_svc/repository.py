"""One row per order."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Index,
    MetaData,
    Table,
    Text,
    Uuid,
    func,
)
from sqlalchemy.dialects.postgresql import JSONB

from events.storage.repository import OrderRepository
from order_svc.decide import Order

metadata = MetaData()

orders = Table(
    "orders",
    metadata,
    Column("order_id", Uuid, primary_key=True),
    Column("status", Text, nullable=False),
    Column("customer", Text),
    Column("currency", Text),
    Column("lines", JSONB, nullable=False),
    Column("amount_minor", BigInteger, nullable=False),
    Column("reason", Text),
    Column("fingerprint", Text),
    Column("content", BigInteger),
    Column("client", Text),
    Column("placed_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    CheckConstraint("amount_minor >= 0", name="amount_not_negative"),
    CheckConstraint(
        "status IN ('early_scheduled', 'early_timed_out', 'early_undone', "
        "'placed', 'confirmed', 'withdrawn', 'cancelled')",
        name="known_status",
    ),
    Index("orders_by_age", "placed_at"),
    # A row changes a few times, soon: with room for that in its page, its index does not.
    postgresql_with={"fillfactor": 60},
)

ORDERS = OrderRepository(orders, Order, final=("confirmed", "cancelled"))

# Of the orders that no confirmed one has overtaken. Those that were given up as late count as well: while
# nothing else becomes of what is accepted, new ones are better refused. What is older than an hour waits for
# something else.
OLDEST = b"""
    SELECT extract(epoch FROM now() - min(placed_at))::float8 AS oldest_seconds, count(*) AS orders
    FROM orders
    WHERE (status = 'placed' OR reason = 'timed_out') AND placed_at > coalesce(
        (SELECT placed_at FROM orders WHERE status = 'confirmed' AND placed_at > now() - interval '1 hour'
            ORDER BY placed_at DESC LIMIT 1),
        now() - interval '1 hour')
"""
