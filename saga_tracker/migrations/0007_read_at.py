"""When each fact was first read, by this database's clock. The release before leaves it empty."""

import sqlalchemy as sa
from alembic import op

revision = "tracker_0007"
down_revision = "tracker_0006"
branch_labels = None


def upgrade() -> None:
    # Of what was read before, the time it states stands in for it: see `tables.FIRST_READ_AT`.
    op.add_column("saga_facts", sa.Column("read_at", sa.DateTime(timezone=True)))
