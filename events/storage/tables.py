"""The tables the runtime keeps in every service's database, beside the service's own."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Index,
    Integer,
    MetaData,
    Sequence,
    Table,
    Text,
    Uuid,
    func,
)
from sqlalchemy.dialects.postgresql import JSONB

metadata = MetaData()

# Which process works off a row: the number it drew when it started (see instance.py).
instance_ids = Sequence("instance_ids", metadata=metadata, data_type=Integer, cycle=True)

inbox = Table(
    "inbox",
    metadata,
    Column("fact_id", Uuid, primary_key=True),
    Column("heard_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    # What came under the id, to tell a repetition from something else. NULL where an older release wrote it.
    Column("order_id", Uuid),
    Column("wire_name", Text),
    Column("content", BigInteger),
    comment="Every fact that took effect here, once. Written in the transaction of its effect.",
)

outbox = Table(
    "outbox",
    metadata,
    Column("fact_id", Uuid, primary_key=True),
    Column("owner", Integer, nullable=False),
    Column("wire_name", Text, nullable=False),
    Column("order_id", Uuid, nullable=False),
    Column("body", Text, nullable=False),
    Column("stated_at", DateTime(timezone=True), nullable=False),
    Column("causation_id", Uuid),
    Column("traceparent", Text),
    # What the broker refused is set aside until then, with its error.
    Column("refusals", Integer, nullable=False, server_default="0"),
    Column("due_at", DateTime(timezone=True)),
    Column("last_error", Text),
    comment="Facts that are stated (committed) but not yet confirmed by the broker.",
)

tombstones = Table(
    "tombstones",
    metadata,
    Column("order_id", Uuid, primary_key=True),
    Column("forgotten_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    # What the order has of the stock for good, where a service keeps any.
    Column("units", JSONB),
    comment="Orders that ended long ago, whose state was deleted: what comes again has no effect.",
)

calls = Table(
    "calls",
    metadata,
    Column("call_id", Uuid, primary_key=True),
    Column("owner", Integer, nullable=False),
    Column("name", Text, nullable=False),
    Column("order_id", Uuid, nullable=False),
    Column("request", JSONB, nullable=False),
    Column("traceparent", Text),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("maybe_done", Boolean, nullable=False, server_default="false"),
    Column("last_error", Text),
    Column("asked_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("due_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Index("calls_by_owner", "owner", "due_at"),
    comment="Things asked of the outside world whose outcome has not gone through decide yet.",
)
