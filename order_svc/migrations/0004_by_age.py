"""Orders by when they were placed, to see how far behind their handling is. The release before does without.

Not partial by status: then no change of a status could leave the indexes alone, as most do (see 0002).
"""

from alembic import op

revision = "order_0004"
down_revision = "order_0003"
branch_labels = None


def upgrade() -> None:
    op.create_index("orders_by_age", "orders", ["placed_at"])
