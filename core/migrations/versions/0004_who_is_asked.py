"""who is asked to compare two answers, and which of the two stood first."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("duels", schema=None) as batch_op:
        batch_op.add_column(
            sa.Column("swapped", sa.Boolean(), server_default=sa.false(), nullable=False)
        )
    with op.batch_alter_table("people", schema=None) as batch_op:
        batch_op.add_column(sa.Column("duels", sa.Boolean(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("people", schema=None) as batch_op:
        batch_op.drop_column("duels")
    with op.batch_alter_table("duels", schema=None) as batch_op:
        batch_op.drop_column("swapped")
