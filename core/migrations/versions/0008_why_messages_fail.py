"""since when a message fails and why, and whose apology has not been said yet."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("inbox", schema=None) as batch_op:
        batch_op.add_column(sa.Column("failing_since", sa.Float(), nullable=True))
        batch_op.add_column(sa.Column("problem", sa.String(length=200), nullable=True))
        batch_op.add_column(sa.Column("apology_due", sa.Float(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("inbox", schema=None) as batch_op:
        batch_op.drop_column("apology_due")
        batch_op.drop_column("problem")
        batch_op.drop_column("failing_since")
