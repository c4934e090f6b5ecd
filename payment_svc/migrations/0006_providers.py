"""With whom a payment was begun, and what that provider calls it."""

import sqlalchemy as sa
from alembic import op

revision = "payment_0006"
down_revision = "payment_0005"
branch_labels = None


def upgrade() -> None:
    # The default stays: a replica of the release before knows of one provider, and does not name it.
    op.add_column("payments", sa.Column("provider", sa.Text, nullable=False, server_default="sandbox"))
    op.add_column("payments", sa.Column("provider_payment", sa.Text))
    op.execute(
        "CREATE INDEX payments_provider_payment ON payments (provider_payment)"
        " WHERE provider_payment IS NOT NULL"
    )
