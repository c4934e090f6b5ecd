"""Who placed an order. The release before leaves it empty: such an order is nobody's in particular."""

import sqlalchemy as sa
from alembic import op

revision = "order_0005"
down_revision = "order_0004"
branch_labels = None


def upgrade() -> None:
    op.add_column("orders", sa.Column("client", sa.Text))
