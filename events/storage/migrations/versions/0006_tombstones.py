"""Which orders were forgotten. The release before neither forgets any nor looks for them."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "runtime_0006"
down_revision = "runtime_0003"
branch_labels = None


def upgrade() -> None:
    op.create_table(
        "tombstones",
        sa.Column("order_id", sa.Uuid, primary_key=True),
        sa.Column("forgotten_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("units", JSONB),
        comment="Orders that ended long ago, whose state was deleted: what comes again has no effect.",
    )
