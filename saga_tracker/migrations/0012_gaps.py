"""What the tracker knows that it never read, and whose services are to be asked about it."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "tracker_0012"
down_revision = "tracker_0011"
branch_labels = None


def upgrade() -> None:
    op.create_table(
        "stream_gaps",
        sa.Column("gap_id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("why", sa.Text, nullable=False),
        sa.Column("after_offset", sa.BigInteger, nullable=False),
        sa.Column("before_offset", sa.BigInteger, nullable=False),
        sa.Column("after_at", sa.DateTime(timezone=True)),
        sa.Column("before_at", sa.DateTime(timezone=True), nullable=False),
        comment="Facts between these were never read: the stream no longer had them. Kept by a rebuild.",
    )
    op.create_table(
        "look_ups",
        sa.Column("order_id", sa.Uuid, primary_key=True),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column(
            "waited_for_until", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()
        ),
        sa.Column("proved", JSONB),
        comment="Sagas that were under way in a gap: their services are asked what was missed.",
    )
    op.create_index("look_ups_by_due", "look_ups", ["due_at"])
