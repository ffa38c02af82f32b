"""Turns of groups: their order in queues, the last turn of each user, how much may pass, and what arrived.

Revision: 0020, after 0019.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def _queue(*last: str) -> None:
    op.drop_index("ix_tasks_queue", "tasks")
    where = sa.text("state = 'queued'")
    columns: list[Any] = ["endpoint_no", "user_no", sa.text("priority DESC"), *last]
    op.create_index("ix_tasks_queue", "tasks", columns, sqlite_where=where, postgresql_where=where)


def upgrade() -> None:
    """Add the columns; build the index of queues again."""
    number = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.add_column("loads", sa.Column("last_group_no", number, nullable=False, server_default="0"))
    op.add_column("loads", sa.Column("last_priority", sa.SmallInteger, nullable=False, server_default="0"))
    op.add_column("endpoints", sa.Column("credit", sa.SmallInteger, nullable=False, server_default="0"))
    op.add_column("arrivals", sa.Column("priority", sa.SmallInteger, nullable=False, server_default="0"))
    _queue("group_no", "no")


def downgrade() -> None:
    """Undo it."""
    _queue("no")
    op.drop_column("arrivals", "priority")
    op.drop_column("endpoints", "credit")
    op.drop_column("loads", "last_priority")
    op.drop_column("loads", "last_group_no")
