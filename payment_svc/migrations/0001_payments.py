"""Payments."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "payment_0001"
down_revision = None
branch_labels = None


def upgrade() -> None:
    op.create_table(
        "payments",
        sa.Column("order_id", sa.Uuid, primary_key=True),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("amount_minor", sa.BigInteger, nullable=False),
        sa.Column("currency", sa.Text),
        sa.Column("customer", sa.Text),
        sa.Column("payment_token", sa.Text),
        sa.Column("lines", JSONB, nullable=False),
        sa.Column("withdrawn", sa.Boolean, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("decided_by", sa.Text),
        sa.Column("decision_note", sa.Text),
        sa.CheckConstraint("amount_minor >= 0", name="amount_not_negative"),
        sa.CheckConstraint(
            "status = 'fenced' OR (currency IS NOT NULL AND payment_token IS NOT NULL)",
            name="charged_is_complete",
        ),
        sa.CheckConstraint(
            "status IN ('held', 'authorising', 'capturing', 'captured', 'voiding', 'refunding', "
            "'crediting', 'declined', 'refunded', 'refund_failed', 'fenced')",
            name="known_status",
        ),
    )
