"""With whom a shipment was begun, what that carrier calls it, and whether its label is yet to be refunded."""

import sqlalchemy as sa
from alembic import op

revision = "fulfillment_0006"
down_revision = "fulfillment_0005"
branch_labels = None


def upgrade() -> None:
    # The defaults stay: a replica of the release before knows of one carrier, and does not name it.
    op.add_column("shipments", sa.Column("carrier", sa.Text, nullable=False, server_default="sandbox"))
    op.add_column("shipments", sa.Column("carrier_shipment", sa.Text))
    op.add_column(
        "shipments", sa.Column("refund_pending", sa.Boolean, nullable=False, server_default="false")
    )
    op.add_column("shipments", sa.Column("reversed", sa.Boolean, nullable=False, server_default="false"))
