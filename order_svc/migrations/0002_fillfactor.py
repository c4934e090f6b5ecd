"""Room in every page for the rows in it to change, which they do at once and never again."""

from alembic import op

revision = "order_0002"
down_revision = "order_0001"
branch_labels = None


def upgrade() -> None:
    op.execute("ALTER TABLE orders SET (fillfactor = 60)")
