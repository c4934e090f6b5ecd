"""Shipments."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "fulfillment_0001"
down_revision = None
branch_labels = None


def upgrade() -> None:
    op.create_table(
        "shipments",
        sa.Column("order_id", sa.Uuid, primary_key=True),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("customer", sa.Text),
        sa.Column("lines", JSONB, nullable=False),
        sa.Column("shipment_id", sa.Text),
        sa.Column("deliver_on", sa.Date),
        sa.Column("withdrawn", sa.Boolean, nullable=False),
        sa.Column("reason", sa.Text),
        sa.CheckConstraint(
            "status NOT IN ('scheduled', 'dispatching', 'dispatched') OR shipment_id IS NOT NULL",
            name="booked_has_shipment",
        ),
        sa.CheckConstraint(
            "status IN ('booking', 'scheduled', 'rejected', 'cancelling', 'cancelled', 'cancel_failed', "
            "'dispatching', 'dispatched', 'dispatch_failed', 'fenced')",
            name="known_status",
        ),
    )
