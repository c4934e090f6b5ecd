"""The first round and rung are what a row has that says nothing of them.

Revision 0002 took it away: then a replica of the release before could not insert a row any more.
"""

from alembic import op

revision = "payment_0005"
down_revision = "payment_0003"
branch_labels = None


def upgrade() -> None:
    op.alter_column("payments", "retry_with", server_default="void")
    op.alter_column("payments", "round", server_default="1")
