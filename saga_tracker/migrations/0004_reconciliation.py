"""What is to be compared, what did not fit, and the provider's ledger."""

import sqlalchemy as sa
from alembic import op

revision = "tracker_0004"
down_revision = "tracker_0003"
branch_labels = None


def upgrade() -> None:
    op.create_table(
        "comparisons",
        sa.Column("order_id", sa.Uuid, primary_key=True),
        sa.Column("waiting_since", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        comment="Orders whose saga is to be compared with the services and the provider once it has settled.",
    )
    op.create_index("comparisons_by_wait", "comparisons", ["waiting_since"])
    op.execute(
        "INSERT INTO comparisons (order_id)"
        " SELECT order_id FROM sagas WHERE state IN ('COMPLETED', 'CANCELLED', 'NEEDS_MANUAL')"
    )
    op.create_table(
        "differences",
        sa.Column("order_id", sa.Uuid, primary_key=True),
        sa.Column("service", sa.Text, primary_key=True),
        sa.Column("about", sa.Text, primary_key=True),
        sa.Column("expected", sa.Text, nullable=False),
        sa.Column("found", sa.Text, nullable=False),
        sa.Column("first_seen_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("last_seen_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        comment="What did not fit when it was compared last. Kept by a rebuild.",
    )
    op.create_index("differences_by_first_seen", "differences", ["first_seen_at", "order_id"])
    op.create_table(
        "ledger_entries",
        sa.Column("entry_id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("order_id", sa.Uuid, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("amount_minor", sa.BigInteger, nullable=False),
        sa.Column("currency", sa.Text, nullable=False),
        comment="The provider's ledger, as far as it was read. Kept by a rebuild.",
    )
    op.create_index("ledger_entries_by_order", "ledger_entries", ["order_id"])
    op.create_table(
        "ledger_position",
        sa.Column("only_row", sa.Boolean, sa.CheckConstraint("only_row"), primary_key=True),
        sa.Column("entry_id", sa.BigInteger, nullable=False),
        sa.Column("entry", sa.Text),
        comment="The last entry of the provider's ledger that was read, to tell it from another ledger's.",
    )
    op.execute("INSERT INTO ledger_position (only_row, entry_id) VALUES (true, 0)")
