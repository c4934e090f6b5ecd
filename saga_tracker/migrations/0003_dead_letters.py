"""Dead letters, and what people did about them and about manual cases."""

import sqlalchemy as sa
from alembic import op

revision = "tracker_0003"
down_revision = "tracker_0002"
branch_labels = None


def upgrade() -> None:
    _create_dead_letters()
    op.create_table(
        "audit",
        sa.Column("entry_id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("by", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("note", sa.Text),
        sa.Column("service", sa.Text),
        sa.Column("order_id", sa.Uuid),
        sa.Column("letter_id", sa.Uuid),
        sa.Column("case_id", sa.Uuid, unique=True),
        comment="Who did what about dead letters and manual cases, and when. Kept by a rebuild.",
    )
    op.create_index("audit_by_order", "audit", ["order_id", "entry_id"])
    op.create_index("audit_by_letter", "audit", ["letter_id", "entry_id"])


def _create_dead_letters() -> None:
    op.create_table(
        "dead_letters",
        sa.Column("letter_id", sa.Uuid, primary_key=True),
        sa.Column("service", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("state_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("arrived_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("first_at", sa.DateTime(timezone=True)),
        sa.Column("last_at", sa.DateTime(timezone=True)),
        sa.Column("attempts", sa.Integer),
        sa.Column("message_id", sa.Text),
        sa.Column("wire_name", sa.Text),
        sa.Column("stated_by", sa.Text),
        sa.Column("order_id", sa.Uuid),
        sa.Column("replay_of", sa.Uuid),
        sa.Column("routing_key", sa.Text, nullable=False),
        sa.Column("properties", sa.Text, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        comment="What services could not use, and cases for a person. Kept by a rebuild.",
    )
    place = ["arrived_at", "letter_id"]
    op.create_index("dead_letters_by_arrival", "dead_letters", place)
    op.create_index("dead_letters_by_group", "dead_letters", ["service", "reason", *place])
    op.create_index("dead_letters_by_order", "dead_letters", ["order_id", *place])
    partial = {
        "dead_letters_by_replay": (["replay_of"], "replay_of IS NOT NULL"),
        "dead_letters_open": (place, "state = 'open'"),
        "open_cases": (["order_id"], "state = 'open' AND kind = 'case'"),
    }
    for name, (columns, where) in partial.items():
        op.create_index(name, "dead_letters", columns, postgresql_where=sa.text(where))
