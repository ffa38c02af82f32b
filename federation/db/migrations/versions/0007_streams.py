"""Items that calls yield.

Revision: 0007, after 0006.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make both tables."""
    op.create_table(
        "streams",
        sa.Column("task_no", NUMBER, autoincrement=False, nullable=False),
        sa.Column("run", sa.SmallInteger, nullable=False),
        sa.Column("bundle_id", sa.String(36), nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("total", sa.Integer),
        sa.PrimaryKeyConstraint("task_no", name="pk_streams"),
    )
    op.create_table(
        "items",
        sa.Column("task_no", NUMBER, autoincrement=False, nullable=False),
        sa.Column("first", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("sizes", sa.Text, nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("task_no", "first", name="pk_items"),
    )


def downgrade() -> None:
    """Drop both tables."""
    op.drop_table("items")
    op.drop_table("streams")
