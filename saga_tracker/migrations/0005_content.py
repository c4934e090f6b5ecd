"""What each fact said, and under which ids orders began. The release before leaves the first empty."""

import sqlalchemy as sa
from alembic import op

revision = "tracker_0005"
down_revision = "tracker_0004"
branch_labels = None


def upgrade() -> None:
    op.add_column("saga_facts", sa.Column("content", sa.BigInteger))
    op.create_index(
        "saga_facts_begun",
        "saga_facts",
        ["fact_id"],
        postgresql_where=sa.text("starts_with(wire_name, 'order.created.')"),
    )
