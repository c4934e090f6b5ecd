"""What somebody proposes to send in place of a dead letter's message. The release before does without."""

import sqlalchemy as sa
from alembic import op

revision = "tracker_0019"
down_revision = "tracker_0018"
branch_labels = None


def upgrade() -> None:
    op.add_column("proposals", sa.Column("content", sa.LargeBinary))
