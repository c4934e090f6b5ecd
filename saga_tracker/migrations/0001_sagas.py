"""Sagas, the trail of facts behind each, and how far the stream was read."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "tracker_0001"
down_revision = None
branch_labels = None


def upgrade() -> None:
    op.create_table(
        "sagas",
        sa.Column("order_id", sa.Uuid, primary_key=True),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("waits", JSONB, nullable=False),
        sa.Column("waiting_for", JSONB, nullable=False),
        sa.Column("timed_out", sa.Boolean, nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True)),
        sa.Column("reason", sa.Text),
        sa.Column("trace_id", sa.Text),
        sa.Column("fact_count", sa.Integer, nullable=False),
        comment="What the facts read so far say of each order.",
    )
    op.create_index("sagas_by_since", "sagas", ["since", "order_id"])
    op.create_index("sagas_by_state", "sagas", ["state", "since", "order_id"])
    op.create_index(
        "sagas_unended", "sagas", ["since", "order_id"], postgresql_where=sa.text("ended_at IS NULL")
    )
    op.create_index("sagas_by_start", "sagas", ["started_at"])
    op.create_index("sagas_by_end", "sagas", ["ended_at"], postgresql_where=sa.text("ended_at IS NOT NULL"))
    op.create_table(
        "saga_facts",
        sa.Column("order_id", sa.Uuid, primary_key=True),
        sa.Column("fact_id", sa.Uuid, primary_key=True),
        sa.Column("wire_name", sa.Text, nullable=False),
        sa.Column("stated_by", sa.Text, nullable=False),
        sa.Column("causation_id", sa.Uuid),
        sa.Column("stated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("dated", sa.Boolean, nullable=False),
        sa.Column("traceparent", sa.Text),
        sa.Column("stream_offset", sa.BigInteger, nullable=False),
        sa.Column("body", JSONB, nullable=False),
        comment="Every fact read, once.",
    )
    op.create_table(
        "undated_facts",
        sa.Column("order_id", sa.Uuid, primary_key=True),
        sa.Column("fact_id", sa.Uuid, primary_key=True),
        sa.Column("first_read_at", sa.DateTime(timezone=True), nullable=False),
        comment="When a fact that does not say when it was stated was first read. Kept by a rebuild.",
    )
    op.create_table(
        "unreadable_messages",
        sa.Column("stream_offset", sa.BigInteger, primary_key=True),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("message_id", sa.Text),
        sa.Column("wire_name", sa.Text),
        sa.Column("stated_by", sa.Text),
        comment="Messages of the stream that tell of no saga, and why.",
    )
    op.create_table(
        "stream_position",
        sa.Column("only_row", sa.Boolean, sa.CheckConstraint("only_row"), primary_key=True),
        sa.Column("stream_offset", sa.BigInteger, nullable=False),
        sa.Column("message_id", sa.Text),
        sa.Column("reading", sa.Integer, nullable=False),
        sa.Column("moved_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        comment="The last message that is in these tables, and which reading of the stream this is.",
    )
    op.execute("INSERT INTO stream_position (only_row, stream_offset, reading) VALUES (true, -1, 1)")
