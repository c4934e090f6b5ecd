"""Room in every page for the rows in it to change, which they do at once and never again."""

from alembic import op

revision = "fulfillment_0003"
down_revision = "fulfillment_0002"
branch_labels = None


def upgrade() -> None:
    op.execute("ALTER TABLE shipments SET (fillfactor = 60)")
