"""One row per order."""

from datetime import timedelta

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
    or_,
    select,
)
from sqlalchemy.dialects.postgresql import JSONB

from events.storage.repository import OrderRepository
from events.storage.sql import compiled, in_seconds
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

_placed_at = orders.c.placed_at
_an_hour_ago = func.now() - timedelta(hours=1)
_confirmed_last = (
    select(_placed_at)
    .where(orders.c.status == "confirmed", _placed_at > _an_hour_ago)
    .order_by(_placed_at.desc())
    .limit(1)
)
# Of the orders that no confirmed one has overtaken. Those that were given up as late count as well: while
# nothing else becomes of what is accepted, new ones are better refused. What is older than an hour waits for
# something else.
OLDEST = compiled(
    select(
        in_seconds(func.now() - func.min(_placed_at)).label("oldest_seconds"),
        func.count().label("orders"),
    ).where(
        or_(orders.c.status == "placed", orders.c.reason == "timed_out"),
        _placed_at > func.coalesce(_confirmed_last.scalar_subquery(), _an_hour_ago),
    )
)
