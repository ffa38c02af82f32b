"""The registry and the ledger.

Revision: 0001, the first.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# SQLite assigns row numbers automatically only in a column of type INTEGER
NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TABLES = (
    "users tokens functions endpoints nodes groups submissions"
    " blobs bundles tasks loads estimates idempotency"
).split()


def upgrade() -> None:
    """Make all tables."""
    _people()
    _functions()
    _endpoints()
    _groups()
    _sent()
    _tasks()
    _task_indexes()
    _counters()


def downgrade() -> None:
    """Drop all tables."""
    for table in reversed(TABLES):
        op.drop_table(table)


def _no() -> sa.Column[Any]:
    return sa.Column("no", NUMBER, primary_key=True, autoincrement=True)


def _number(name: str, target: str | None = None, **options: Any) -> sa.Column[Any]:
    """A row's number in another table; ``target``: the table that the database checks it against."""
    options.setdefault("nullable", False)
    keys = [sa.ForeignKey(f"{target}.no", name=f"fk_{options.pop('of')}_{name}")] if target else []
    return sa.Column(name, NUMBER, *keys, **options)


def _id() -> sa.Column[Any]:
    return sa.Column("id", sa.String(36), nullable=False, unique=True)


def _time(name: str, *, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.Float, nullable=nullable)


def _index(
    name: str, table: str, columns: list[Any], where: str | None = None, *, unique: bool = False
) -> None:
    condition = None if where is None else sa.text(where)
    op.create_index(name, table, columns, unique=unique, sqlite_where=condition, postgresql_where=condition)


def _people() -> None:
    op.create_table(
        "users",
        _no(),
        _id(),
        sa.Column("name", sa.String(64), nullable=False, unique=True),
        _time("created"),
    )
    op.create_table(
        "tokens",
        _no(),
        _number("user_no", "users", of="tokens"),
        sa.Column("sha256", sa.String(64), nullable=False, unique=True),
        sa.Column("label", sa.String(128), server_default="", nullable=False),
        _time("created"),
        _time("expires", nullable=True),
        _time("revoked", nullable=True),
    )


def _functions() -> None:
    op.create_table(
        "functions",
        _no(),
        _id(),
        _number("user_no", "users", of="functions"),
        sa.Column("name", sa.String(256), nullable=False),
        sa.Column("description", sa.Text, server_default="", nullable=False),
        sa.Column("source", sa.Text),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        _time("created"),
        _time("deleted", nullable=True),
    )
    _index("uq_functions_owner_body", "functions", ["user_no", "sha256"], "deleted IS NULL", unique=True)
    _index("ix_functions_user", "functions", ["user_no", "no"])


def _endpoints() -> None:
    op.create_table(
        "endpoints",
        _no(),
        _id(),
        _number("user_no", "users", of="endpoints"),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("description", sa.Text, server_default="", nullable=False),
        sa.Column("metadata", sa.Text, server_default="{}", nullable=False),
        sa.Column("public_key", sa.LargeBinary, nullable=False),
        sa.Column("broker_sha256", sa.String(64), nullable=False),
        _time("created"),
        _time("deleted", nullable=True),
        _number("last_user_no", nullable=True),
    )
    _index("uq_endpoints_owner_name", "endpoints", ["user_no", "name"], "deleted IS NULL", unique=True)
    _index("ix_endpoints_user", "endpoints", ["user_no", "no"])
    op.create_table(
        "nodes",
        _no(),
        _number("endpoint_no", "endpoints", of="nodes"),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("instance", sa.String(36), nullable=False),
        sa.Column("slots", sa.Integer, nullable=False),
        sa.Column("busy", sa.Integer, nullable=False),
        sa.Column("facts", sa.Text, server_default="{}", nullable=False),
        _time("since"),
        _time("seen"),
        sa.Column("live", sa.SmallInteger, nullable=False),
    )
    _index("uq_nodes_endpoint_name", "nodes", ["endpoint_no", "name"], unique=True)
    _index("ix_nodes_live", "nodes", ["seen"], "live = 1")


def _groups() -> None:
    op.create_table(
        "groups",
        _no(),
        _id(),
        _number("user_no", "users", of="groups"),
        _time("created"),
        sa.Column("size", sa.BigInteger, server_default="0", nullable=False),
        sa.Column("completions", sa.BigInteger, server_default="0", nullable=False),
    )
    op.create_table(
        "submissions",
        _no(),
        _number("group_no", "groups", of="submissions"),
        _number("user_no", "users", of="submissions"),
        _number("endpoint_no", "endpoints", of="submissions"),
        _number("function_no", "functions", of="submissions"),
        sa.Column("options", sa.Text, server_default="{}", nullable=False),
        _time("created"),
    )
    _index("ix_submissions_group", "submissions", ["group_no"])


def _sent() -> None:
    op.create_table(
        "blobs",
        _no(),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.Column("refs", sa.Integer, nullable=False),
    )
    op.create_table(
        "bundles",
        _no(),
        _id(),
        _number("endpoint_no", "endpoints", of="bundles"),
        _number("function_no", "functions", of="bundles"),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("open", sa.Integer, nullable=False),
        _time("sent"),
        _number("node_no", "nodes", of="bundles", nullable=True),
        _time("held", nullable=True),
    )
    _index("ix_bundles_endpoint", "bundles", ["endpoint_no"])


def _tasks() -> None:
    op.create_table(
        "tasks",
        _no(),
        _id(),
        _number("submission_no"),
        _number("group_no"),
        _number("user_no"),
        _number("endpoint_no"),
        _number("function_no"),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("priority", sa.SmallInteger, nullable=False),
        sa.Column("attempt", sa.SmallInteger, nullable=False),
        sa.Column("retried", sa.SmallInteger, server_default="0", nullable=False),
        _number("blob_no"),
        sa.Column("blob_offset", sa.Integer, nullable=False),
        sa.Column("blob_size", sa.Integer, nullable=False),
        _time("created"),
        _time("expires", nullable=True),
        _number("bundle_no", nullable=True),
        _time("dispatched", nullable=True),
        _number("node_no", nullable=True),
        _time("started", nullable=True),
        _time("wall", nullable=True),
        _time("finished", nullable=True),
        sa.Column("completion", sa.BigInteger),
        sa.Column("code", sa.String(32)),
        sa.Column("message", sa.Text),
        sa.Column("usage", sa.Text),
        _number("result_blob_no", nullable=True),
        sa.Column("result_offset", sa.Integer),
        sa.Column("result_size", sa.Integer),
    )


def _task_indexes() -> None:
    queue = ["endpoint_no", "user_no", sa.text("priority DESC"), "no"]
    _index("ix_tasks_queue", "tasks", queue, "state = 'queued'")
    _index("ix_tasks_bundle", "tasks", ["bundle_no"], "bundle_no IS NOT NULL")
    _index("ix_tasks_expiry", "tasks", ["expires"], "expires IS NOT NULL AND finished IS NULL")
    _index("ix_tasks_finished", "tasks", ["finished"], "finished IS NOT NULL")
    _index("ix_tasks_completion", "tasks", ["group_no", "completion"], "completion IS NOT NULL")
    _index("ix_tasks_group", "tasks", ["group_no", "no"])
    _index("ix_tasks_user", "tasks", ["user_no", "no"])


def _counters() -> None:
    op.create_table(
        "loads",
        _number("endpoint_no", primary_key=True),
        _number("user_no", primary_key=True),
        sa.Column("live", sa.Integer, nullable=False),
    )
    _index("ix_loads_user", "loads", ["user_no"])
    op.create_table(
        "estimates",
        _number("endpoint_no", primary_key=True),
        _number("function_no", primary_key=True),
        _time("seconds"),
        _time("updated"),
    )
    op.create_table(
        "idempotency",
        _number("user_no", primary_key=True),
        sa.Column("key", sa.String(128), primary_key=True),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("answer", sa.Text, nullable=False),
        _time("created"),
    )
    _index("ix_idempotency_created", "idempotency", ["created"])
