"""Which orders were forgotten, and an index of closed dead letters. The release before uses neither."""

import sqlalchemy as sa
from alembic import op

revision = "tracker_0011"
down_revision = "tracker_0007"
branch_labels = None


def upgrade() -> None:
    op.create_table(
        "tombstones",
        sa.Column("order_id", sa.Uuid, primary_key=True),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("forgotten_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("states_forgotten", sa.Boolean, nullable=False, server_default="false"),
        comment="Orders whose saga was deleted after its retention time. Kept by a rebuild.",
    )
    op.create_index(
        "tombstones_with_states",
        "tombstones",
        ["ended_at", "order_id"],
        postgresql_where=sa.text("NOT states_forgotten"),
    )
    op.create_index(
        "dead_letters_closed", "dead_letters", ["state_at"], postgresql_where=sa.text("state <> 'open'")
    )
