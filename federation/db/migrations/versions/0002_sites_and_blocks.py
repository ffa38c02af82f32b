"""Sites and blocks of elastic endpoints.

Revision: 0002, after 0001.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make both tables."""
    op.create_table(
        "sites",
        *_row("sites", unique=True),
        sa.Column("settings", sa.Text, nullable=False),
        sa.Column("policy", sa.Text, nullable=False),
        sa.Column("memory", sa.Text, nullable=False, server_default="{}"),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("message", sa.Text, nullable=False, server_default=""),
        sa.Column("decision", sa.Text, nullable=False, server_default=""),
        *_times("looked", "took"),
        sa.Column("created", sa.Float, nullable=False),
    )
    op.create_table(
        "blocks",
        *_row("blocks", unique=False),
        sa.Column("name", sa.String(32), nullable=False),
        sa.Column("job_id", sa.String(128)),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text, nullable=False, server_default=""),
        sa.Column("nodes", sa.Integer, nullable=False),
        sa.Column("slots", sa.Integer, nullable=False),
        sa.Column("walltime", sa.Float, nullable=False),
        sa.Column("hosts", sa.Text, nullable=False, server_default="[]"),
        sa.Column("submitted", sa.Float, nullable=False),
        *_times("started", "joined", "drained", "cancelled", "ended"),
        sa.Column("workers", sa.Integer, nullable=False, server_default="0"),
        sa.Column("busy", sa.Integer, nullable=False, server_default="0"),
        *_times("idle_since", "silent_since", "missing_since"),
        sa.Column("busy_seconds", sa.Float, nullable=False, server_default="0"),
        sa.Column("idle_seconds", sa.Float, nullable=False, server_default="0"),
        *_times("counted"),
        sa.Column("tail", sa.Text, nullable=False, server_default=""),
        sa.UniqueConstraint("name", name="uq_blocks_name"),
    )
    op.create_index("ix_blocks_endpoint", "blocks", ["endpoint_no", "ended"])


def downgrade() -> None:
    """Drop both tables."""
    op.drop_table("blocks")
    op.drop_table("sites")


def _row(table: str, *, unique: bool) -> list[Any]:
    items: list[Any] = [
        sa.Column("no", NUMBER, autoincrement=True, nullable=False),
        sa.Column("endpoint_no", NUMBER, nullable=False),
        sa.PrimaryKeyConstraint("no", name=f"pk_{table}"),
        sa.ForeignKeyConstraint(["endpoint_no"], ["endpoints.no"], name=f"fk_{table}_endpoint_no"),
    ]
    if unique:
        items.append(sa.UniqueConstraint("endpoint_no", name=f"uq_{table}_endpoint_no"))
    return items


def _times(*names: str) -> list[Any]:
    return [sa.Column(name, sa.Float) for name in names]
