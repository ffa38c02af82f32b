"""Calls that occupy several slots of a node, and what is installed on nodes.

Revision: 0003, after 0002.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

WIDE = sa.text("state = 'queued' AND cores > 1")


def upgrade() -> None:
    """Add the number of slots that tasks and bundles occupy (default: one)."""
    op.add_column("tasks", sa.Column("cores", sa.SmallInteger, nullable=False, server_default="1"))
    op.add_column("bundles", sa.Column("cores", sa.Integer, nullable=False, server_default="1"))
    op.add_column("nodes", sa.Column("packages", sa.Text, nullable=False, server_default="{}"))
    op.create_index("ix_tasks_wide", "tasks", ["endpoint_no"], sqlite_where=WIDE, postgresql_where=WIDE)


def downgrade() -> None:
    """Drop the columns."""
    op.drop_index("ix_tasks_wide", "tasks")
    op.drop_column("nodes", "packages")
    op.drop_column("bundles", "cores")
    op.drop_column("tasks", "cores")
