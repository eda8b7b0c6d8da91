"""when a thumb's emoji was last put on or taken off, so that the later one counts."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "reactions",
        sa.Column("reply_id", sa.String(length=64), nullable=False),
        sa.Column("user_id", sa.String(length=64), nullable=False),
        sa.Column("rating", sa.String(length=8), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["reply_id"], ["turns.reply_id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("reply_id", "user_id", "rating"),
    )


def downgrade() -> None:
    op.drop_table("reactions")
