"""What it takes to tell a customer again, and who told one instead."""

import sqlalchemy as sa
from alembic import op

revision = "notification_0002"
down_revision = "notification_0001"
branch_labels = None


def upgrade() -> None:
    op.add_column("notices", sa.Column("customer", sa.Text))
    op.add_column("notices", sa.Column("cancelled_because", sa.Text))
    for name in ("email_round", "push_round"):
        op.add_column("notices", sa.Column(name, sa.Integer, nullable=False, server_default="1"))
        op.alter_column("notices", name, server_default=None)
    op.add_column("notices", sa.Column("settled_by", sa.Text))
