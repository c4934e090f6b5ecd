"""Sign-in links that were used, and acts that wait for a second person. The release before knows neither."""

import sqlalchemy as sa
from alembic import op

revision = "tracker_0016"
down_revision = "tracker_0014"
branch_labels = None


def upgrade() -> None:
    op.create_table(
        "proposals",
        sa.Column("action", sa.Text, primary_key=True),
        sa.Column("order_id", sa.Uuid, primary_key=True),
        sa.Column("by", sa.Text, nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        comment="Acts that wait for a second person. Kept by a rebuild.",
    )
    op.create_table(
        "used_links",
        sa.Column("once", sa.Text, primary_key=True),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        comment="Sign-in links that were used, until they are too old to be used again. Kept by a rebuild.",
    )
