"""Inbox, outbox, calls, and the numbers of instances."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "runtime_0001"
down_revision = None
branch_labels = ("runtime",)


def upgrade() -> None:
    op.execute("CREATE SEQUENCE instance_ids AS integer CYCLE")
    op.create_table(
        "inbox",
        sa.Column("fact_id", sa.Uuid, primary_key=True),
        sa.Column("heard_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        comment="Every fact that took effect here, once. Written in the transaction of its effect.",
    )
    op.create_table(
        "outbox",
        sa.Column("fact_id", sa.Uuid, primary_key=True),
        sa.Column("owner", sa.Integer, nullable=False),
        sa.Column("wire_name", sa.Text, nullable=False),
        sa.Column("order_id", sa.Uuid, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("stated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("causation_id", sa.Uuid),
        sa.Column("traceparent", sa.Text),
        comment="Facts that are stated (committed) but not yet confirmed by the broker.",
    )
    op.create_table(
        "calls",
        sa.Column("call_id", sa.Uuid, primary_key=True),
        sa.Column("owner", sa.Integer, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("order_id", sa.Uuid, nullable=False),
        sa.Column("request", JSONB, nullable=False),
        sa.Column("traceparent", sa.Text),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("maybe_done", sa.Boolean, nullable=False, server_default="false"),
        sa.Column("last_error", sa.Text),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        comment="Things asked of the outside world whose outcome has not gone through decide yet.",
    )
    op.create_index("calls_by_owner", "calls", ["owner", "due_at"])
