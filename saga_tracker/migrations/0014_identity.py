"""In which role somebody did something, and how they had signed in. The release before leaves both empty."""

import sqlalchemy as sa
from alembic import op

revision = "tracker_0014"
down_revision = "tracker_0013"
branch_labels = None


def upgrade() -> None:
    op.add_column("audit", sa.Column("role", sa.Text))
    op.add_column("audit", sa.Column("signed_in_by", sa.Text))
