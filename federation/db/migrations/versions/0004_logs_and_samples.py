"""Output of calls, and samples of the resource use of each function.

Revision: 0004, after 0003.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make both tables."""
    op.create_table(
        "logs",
        sa.Column("task_no", NUMBER, autoincrement=False, nullable=False),
        sa.Column("attempt", sa.SmallInteger, nullable=False),
        sa.Column("head", sa.LargeBinary, nullable=False),
        sa.Column("tail", sa.LargeBinary, nullable=False),
        sa.Column("total", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("task_no", name="pk_logs"),
    )
    op.create_table(
        "samples",
        sa.Column("function_no", NUMBER, autoincrement=False, nullable=False),
        sa.Column("place", sa.SmallInteger, autoincrement=False, nullable=False),
        sa.Column("finished", sa.Float, nullable=False),
        sa.Column("queued", sa.Float),
        sa.Column("wall", sa.Float, nullable=False),
        *[sa.Column(name, sa.Float) for name in ("cpu", "user", "system")],
        *[sa.Column(name, sa.BigInteger) for name in ("max_rss", "read", "written", "output")],
        sa.PrimaryKeyConstraint("function_no", "place", name="pk_samples"),
    )


def downgrade() -> None:
    """Drop both tables."""
    op.drop_table("samples")
    op.drop_table("logs")
