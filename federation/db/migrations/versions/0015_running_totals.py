"""Running totals of sent calls, and indexes for searches that visited many rows.

Revision: 0015, after 0014.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

_LISTS = {"group": "group_no", "user": "user_no", "function": "function_no", "endpoint": "endpoint_no"}
_TOTALS = ("sent", "running", "occupied")
_COUNT = """
    UPDATE loads SET
        sent = (SELECT count(*) FROM tasks JOIN bundles ON bundles.no = tasks.bundle_no
            WHERE bundles.endpoint_no = loads.endpoint_no AND tasks.user_no = loads.user_no),
        running = (SELECT count(*) FROM tasks JOIN bundles ON bundles.no = tasks.bundle_no
            WHERE bundles.endpoint_no = loads.endpoint_no AND tasks.user_no = loads.user_no
            AND tasks.state = 'running'),
        occupied = (SELECT coalesce(sum(cores), 0) FROM bundles
            WHERE bundles.endpoint_no = loads.endpoint_no AND EXISTS (SELECT 1 FROM tasks
            WHERE tasks.bundle_no = bundles.no AND tasks.user_no = loads.user_no))
    WHERE live > 0
"""


def _index(name: str, table: str, columns: list[str], where: str | None = None) -> None:
    condition = None if where is None else sa.text(where)
    op.create_index(name, table, columns, sqlite_where=condition, postgresql_where=condition)


def upgrade() -> None:
    """Add the columns and count; replace the index of a user's tasks by those of submissions."""
    for name in _TOTALS:
        op.add_column("loads", sa.Column(name, sa.Integer, nullable=False, server_default="0"))
    op.drop_index("ix_submissions_group", "submissions")
    for name, column in _LISTS.items():
        _index(f"ix_submissions_{name}", "submissions", [column, "created", "no"])
    _index("ix_bundles_node", "bundles", ["node_no"], "node_no IS NOT NULL")
    _index("ix_nodes_slots", "nodes", ["endpoint_no", "live", "slots"])
    _index("ix_blocks_ended", "blocks", ["ended"])
    _index("ix_groups_parent", "groups", ["parent"], "parent IS NOT NULL")
    op.drop_index("ix_tasks_user", "tasks")
    _index("ix_tasks_submission", "tasks", ["submission_no", "no"])
    columns = ["user_no", "state", "created", "submission_no", "no"]
    _index("ix_tasks_unsuccessful", "tasks", columns, "state IN ('failed', 'cancelled', 'expired')")
    op.execute(_COUNT)


def downgrade() -> None:
    """Drop them; restore the indexes that were replaced."""
    op.drop_index("ix_tasks_unsuccessful", "tasks")
    op.drop_index("ix_tasks_submission", "tasks")
    _index("ix_tasks_user", "tasks", ["user_no", "no"])
    op.drop_index("ix_groups_parent", "groups")
    op.drop_index("ix_blocks_ended", "blocks")
    op.drop_index("ix_nodes_slots", "nodes")
    op.drop_index("ix_bundles_node", "bundles")
    for name in _LISTS:
        op.drop_index(f"ix_submissions_{name}", "submissions")
    _index("ix_submissions_group", "submissions", ["group_no"])
    for name in reversed(_TOTALS):
        op.drop_column("loads", name)
