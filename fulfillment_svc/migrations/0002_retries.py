"""Under which key a cancellation or dispatch is tried again, and who settled one."""

import sqlalchemy as sa
from alembic import op

revision = "fulfillment_0002"
down_revision = "fulfillment_0001"
branch_labels = None


def upgrade() -> None:
    op.add_column("shipments", sa.Column("round", sa.Integer, nullable=False, server_default="1"))
    op.alter_column("shipments", "round", server_default=None)
    op.add_column("shipments", sa.Column("settled_by", sa.Text))
