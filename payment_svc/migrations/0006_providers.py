"""With whom a payment was begun, what that provider calls it, and what is pending or disputed there."""

import sqlalchemy as sa
from alembic import op

revision = "payment_0006"
down_revision = "payment_0005"
branch_labels = None


def upgrade() -> None:
    # The default stays: a replica of the release before knows of one provider, and does not name it.
    op.add_column("payments", sa.Column("provider", sa.Text, nullable=False, server_default="sandbox"))
    op.add_column("payments", sa.Column("provider_payment", sa.Text))
    op.add_column("payments", sa.Column("disputed", sa.Boolean, nullable=False, server_default="false"))
    op.add_column("payments", sa.Column("reversed", sa.Boolean, nullable=False, server_default="false"))
    op.drop_constraint("known_status", "payments")
    op.create_check_constraint(
        "known_status",
        "payments",
        "status IN ('held', 'authorising', 'authorisation_pending', 'capturing', 'captured', 'voiding', "
        "'refunding', 'refund_pending', 'crediting', 'declined', 'refunded', 'refund_failed', 'fenced')",
    )
    op.execute(
        "CREATE INDEX payments_provider_payment ON payments (provider_payment)"
        " WHERE provider_payment IS NOT NULL"
    )
