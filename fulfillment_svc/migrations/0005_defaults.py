"""The first round is what a row has that says nothing of it.

Revision 0002 took it away: then a replica of the release before could not insert a row any more.
"""

from alembic import op

revision = "fulfillment_0005"
down_revision = "fulfillment_0003"
branch_labels = None


def upgrade() -> None:
    op.alter_column("shipments", "round", server_default="1")
