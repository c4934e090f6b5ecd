"""When each message that tells of no saga was read, so that old ones can go."""

import sqlalchemy as sa
from alembic import op

revision = "tracker_0013"
down_revision = "tracker_0012"
branch_labels = None


def upgrade() -> None:
    op.add_column(
        "unreadable_messages",
        sa.Column("read_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    )
