"""The first rounds are what a row has that says nothing of them.

Revision 0002 took it away: then a replica of the release before could not insert a row any more.
"""

from alembic import op

revision = "notification_0005"
down_revision = "notification_0003"
branch_labels = None


def upgrade() -> None:
    for name in ("email_round", "push_round"):
        op.alter_column("notices", name, server_default="1")
