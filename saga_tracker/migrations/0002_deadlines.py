"""When sagas are due, who acts on that, and what the tracker has to publish."""

import sqlalchemy as sa
from alembic import op

revision = "tracker_0002"
down_revision = "tracker_0001"
branch_labels = None


def upgrade() -> None:
    op.add_column("sagas", sa.Column("due_at", sa.DateTime(timezone=True)))
    op.create_index("sagas_due", "sagas", ["due_at"], postgresql_where=sa.text("due_at IS NOT NULL"))
    # The keeper looks at each of them once, and then knows.
    op.execute("UPDATE sagas SET due_at = since WHERE ended_at IS NULL")
    op.create_table(
        "outbox",
        sa.Column("message_id", sa.Uuid, primary_key=True),
        sa.Column("exchange", sa.Text, primary_key=True),
        sa.Column("routing_key", sa.Text, primary_key=True),
        sa.Column("wire_name", sa.Text, nullable=False),
        sa.Column("order_id", sa.Uuid, nullable=False),
        sa.Column("stated_by", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("stated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("causation_id", sa.Uuid),
        sa.Column("traceparent", sa.Text),
        sa.Column(
            "entered_at",
            sa.DateTime(timezone=True),
            nullable=False,
            server_default=sa.func.clock_timestamp(),
        ),
        comment="What the tracker has to publish, until the broker confirms it.",
    )
    op.create_index("outbox_by_entry", "outbox", ["entered_at"])
    op.create_table(
        "lease",
        sa.Column("only_row", sa.Boolean, sa.CheckConstraint("only_row"), primary_key=True),
        sa.Column("holder", sa.Text),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        comment="Which of several trackers acts on deadlines, and until when it may without renewing.",
    )
    op.execute("INSERT INTO lease (only_row, expires_at) VALUES (true, now())")
