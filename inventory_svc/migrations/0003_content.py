"""What an order began with. The release before leaves it empty; such rows contradict nothing."""

import sqlalchemy as sa
from alembic import op

revision = "inventory_0003"
down_revision = "inventory_0002"
branch_labels = None


def upgrade() -> None:
    op.add_column("reservations", sa.Column("content", sa.BigInteger))
