"""Notices."""

import sqlalchemy as sa
from alembic import op

revision = "notification_0001"
down_revision = None
branch_labels = None


def upgrade() -> None:
    op.create_table(
        "notices",
        sa.Column("order_id", sa.Uuid, primary_key=True),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("ending", sa.Text, nullable=False),
        sa.Column("email", sa.Text, nullable=False),
        sa.Column("push", sa.Text, nullable=False),
        sa.Column("reason", sa.Text),
        sa.CheckConstraint("ending IN ('confirmed', 'cancelled')", name="known_ending"),
        sa.CheckConstraint("status IN ('sending', 'notified', 'failed')", name="known_status"),
    )
