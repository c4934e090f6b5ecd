"""What the board needs: indexes by which it finds sagas, and the dead letters that a person chose.

The release before works as it did. Each index covers few rows: one fact an order, and sagas with a reason.
"""

import sqlalchemy as sa
from alembic import op

revision = "tracker_0018"
down_revision = "tracker_0017"
branch_labels = None

_BEGAN = sa.text("starts_with(wire_name, 'order.created.')")


def upgrade() -> None:
    op.create_index(
        "sagas_by_reason",
        "sagas",
        ["reason", "since", "order_id"],
        postgresql_where=sa.text("reason IS NOT NULL"),
    )
    op.create_index(
        "saga_facts_by_customer",
        "saga_facts",
        [sa.text("(body ->> 'customer')"), "order_id"],
        postgresql_where=_BEGAN,
    )
    op.create_index(
        "saga_facts_by_line",
        "saga_facts",
        [sa.literal_column("(body -> 'lines')").label("lines")],
        postgresql_using="gin",
        postgresql_ops={"lines": "jsonb_path_ops"},
        postgresql_where=_BEGAN,
    )
    _create_selections()


def _create_selections() -> None:
    op.create_table(
        "selections",
        sa.Column("selection_id", sa.Uuid, primary_key=True),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("made_by", sa.Text, nullable=False),
        sa.Column("of", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("state_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("verb", sa.Text),
        sa.Column("by", sa.Text),
        sa.Column("role", sa.Text),
        sa.Column("signed_in_by", sa.Text),
        sa.Column("note", sa.Text),
        sa.Column("per_second", sa.Integer),
        sa.Column("last_error", sa.Text),
        comment="Dead letters that a person chose, to replay or discard them together. Kept by a rebuild.",
    )
    op.create_index("selections_by_time", "selections", ["made_at"])
    op.create_index(
        "selections_running", "selections", ["made_at"], postgresql_where=sa.text("state = 'running'")
    )
    op.create_table(
        "selected_letters",
        sa.Column("selection_id", sa.Uuid, primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True),
        sa.Column("letter_id", sa.Uuid, nullable=False),
        sa.Column("outcome", sa.Text),
        comment="Which dead letters a selection has, from when it was made on.",
    )
    op.create_index(
        "selected_letters_left",
        "selected_letters",
        ["selection_id", "position"],
        postgresql_where=sa.text("outcome IS NULL"),
    )
