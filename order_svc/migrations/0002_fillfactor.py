"""Room in a page for its rows to change, which they do soon and then never again."""

from alembic import op

revision = "order_0002"
down_revision = "order_0001"
branch_labels = None


def upgrade() -> None:
    op.execute("ALTER TABLE orders SET (fillfactor = 60)")
