"""The toy's table."""

from sqlalchemy import CheckConstraint, Column, Integer, MetaData, Table, Text, UniqueConstraint, Uuid

from events.storage.repository import OrderRepository
from tests.runtime.toy.decide import Tally

metadata = MetaData()

tallies = Table(
    "tallies",
    metadata,
    Column("order_id", Uuid, primary_key=True),
    Column("count", Integer, nullable=False),
    Column("label", Text),
    Column("answer", Text),
    CheckConstraint("count >= 0", name="count_not_negative"),
    UniqueConstraint("label", name="label_is_unique"),
)

TALLIES = OrderRepository(tallies, Tally)
