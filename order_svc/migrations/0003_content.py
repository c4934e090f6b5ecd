"""What an order began with. The release before leaves it empty; such rows contradict nothing."""

import sqlalchemy as sa
from alembic import op

revision = "order_0003"
down_revision = "order_0002"
branch_labels = None


def upgrade() -> None:
    op.add_column("orders", sa.Column("content", sa.BigInteger))
