"""Room in a page for its rows to change, which they do soon and then never again."""

from alembic import op

revision = "fulfillment_0003"
down_revision = "fulfillment_0002"
branch_labels = None


def upgrade() -> None:
    op.execute("ALTER TABLE shipments SET (fillfactor = 60)")
