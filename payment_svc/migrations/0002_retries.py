"""What a retry of an undo that failed begins with, and who settled one."""

import sqlalchemy as sa
from alembic import op

revision = "payment_0002"
down_revision = "payment_0001"
branch_labels = None


def upgrade() -> None:
    # An undo that failed earlier is retried from the top, under its first keys: whatever was answered to
    # them is answered again, and nothing is done twice.
    op.add_column("payments", sa.Column("retry_with", sa.Text, nullable=False, server_default="void"))
    op.add_column("payments", sa.Column("round", sa.Integer, nullable=False, server_default="1"))
    op.add_column("payments", sa.Column("settled_by", sa.Text))
    for name in ("retry_with", "round"):
        op.alter_column("payments", name, server_default=None)
    op.create_check_constraint(
        "known_rung", "payments", "retry_with IN ('void', 'refund', 'issue_credit_note')"
    )
