"""Orders."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "order_0001"
down_revision = None
branch_labels = None


def upgrade() -> None:
    op.create_table(
        "orders",
        sa.Column("order_id", sa.Uuid, primary_key=True),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("customer", sa.Text),
        sa.Column("currency", sa.Text),
        sa.Column("lines", JSONB, nullable=False),
        sa.Column("amount_minor", sa.BigInteger, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("fingerprint", sa.Text),
        sa.Column("placed_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.CheckConstraint("amount_minor >= 0", name="amount_not_negative"),
        sa.CheckConstraint(
            "status IN ('early_scheduled', 'early_timed_out', 'early_undone', "
            "'placed', 'confirmed', 'withdrawn', 'cancelled')",
            name="known_status",
        ),
    )
