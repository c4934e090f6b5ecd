"""Room in a page for its rows to change, which they do soon and then never again."""

from alembic import op

revision = "payment_0003"
down_revision = "payment_0002"
branch_labels = None


def upgrade() -> None:
    op.execute("ALTER TABLE payments SET (fillfactor = 60)")
