"""The tracker's tables: the view of every saga, and what it was made from."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

metadata = MetaData()

sagas = Table(
    "sagas",
    metadata,
    Column("order_id", Uuid, primary_key=True),
    Column("state", Text, nullable=False),
    Column("since", DateTime(timezone=True), nullable=False),
    Column("waits", JSONB, nullable=False),
    # The names of the services and facts in `waits`, to filter by.
    Column("waiting_for", JSONB, nullable=False),
    Column("timed_out", Boolean, nullable=False),
    Column("started_at", DateTime(timezone=True), nullable=False),
    Column("ended_at", DateTime(timezone=True)),
    Column("reason", Text),
    Column("trace_id", Text),
    Column("fact_count", Integer, nullable=False),
    Index("sagas_by_since", "since", "order_id"),
    Index("sagas_by_state", "state", "since", "order_id"),
    # Only a saga that has not ended waits for anything; these are few beside the ended ones.
    Index("sagas_unended", "since", "order_id", postgresql_where=text("ended_at IS NULL")),
    Index("sagas_by_start", "started_at"),
    Index("sagas_by_end", "ended_at", postgresql_where=text("ended_at IS NOT NULL")),
    comment="What the facts read so far say of each order.",
)

saga_facts = Table(
    "saga_facts",
    metadata,
    Column("order_id", Uuid, primary_key=True),
    Column("fact_id", Uuid, primary_key=True),
    Column("wire_name", Text, nullable=False),
    Column("stated_by", Text, nullable=False),
    Column("causation_id", Uuid),
    Column("stated_at", DateTime(timezone=True), nullable=False),
    Column("dated", Boolean, nullable=False),
    Column("traceparent", Text),
    Column("stream_offset", BigInteger, nullable=False),
    Column("body", JSONB, nullable=False),
    comment="Every fact read, once.",
)

undated_facts = Table(
    "undated_facts",
    metadata,
    Column("order_id", Uuid, primary_key=True),
    Column("fact_id", Uuid, primary_key=True),
    Column("first_read_at", DateTime(timezone=True), nullable=False),
    comment="When a fact that does not say when it was stated was first read. Kept by a rebuild.",
)

unreadable_messages = Table(
    "unreadable_messages",
    metadata,
    Column("stream_offset", BigInteger, primary_key=True),
    Column("reason", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("message_id", Text),
    Column("wire_name", Text),
    Column("stated_by", Text),
    comment="Messages of the stream that tell of no saga, and why.",
)

stream_position = Table(
    "stream_position",
    metadata,
    Column("only_row", Boolean, CheckConstraint("only_row"), primary_key=True),
    Column("stream_offset", BigInteger, nullable=False),
    Column("message_id", Text),
    Column("reading", Integer, nullable=False),
    Column("moved_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    comment="The last message that is in these tables, and which reading of the stream this is.",
)
