"""What came under a fact id. The release before leaves this empty, and such rows are read as they are."""

import sqlalchemy as sa
from alembic import op

revision = "runtime_0002"
down_revision = "runtime_0001"
branch_labels = None


def upgrade() -> None:
    op.add_column("inbox", sa.Column("order_id", sa.Uuid))
    op.add_column("inbox", sa.Column("wire_name", sa.Text))
    op.add_column("inbox", sa.Column("content", sa.BigInteger))
