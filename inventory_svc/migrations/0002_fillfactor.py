"""Room in every page for the rows in it to change, which they do at once and never again."""

from alembic import op

revision = "inventory_0002"
down_revision = "inventory_0001"
branch_labels = None


def upgrade() -> None:
    op.execute("ALTER TABLE reservations SET (fillfactor = 60)")
