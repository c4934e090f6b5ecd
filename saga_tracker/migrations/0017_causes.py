"""Why sagas wait, as the services say. The release before does without."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "tracker_0017"
down_revision = "tracker_0016"
branch_labels = None


def upgrade() -> None:
    op.create_table(
        "causes",
        sa.Column("order_id", sa.Uuid, primary_key=True),
        sa.Column("service", sa.Text, primary_key=True),
        sa.Column("because_of_id", sa.Uuid, nullable=False),
        sa.Column("cause", JSONB, nullable=False),
        sa.Column("known_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("reason", sa.Text),
        comment="Why sagas wait, as their services said last. Not from the stream; old ones are deleted.",
    )
    op.create_index("causes_by_age", "causes", ["known_at"])
