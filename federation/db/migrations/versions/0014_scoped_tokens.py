"""Tokens with a scope: those of running calls, and one-time codes; groups that calls have created.

Revision: 0014, after 0013.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; existing one-time codes get their scope."""
    op.add_column("tokens", sa.Column("scope", sa.String(255)))
    op.add_column("tokens", sa.Column("task_id", sa.String(36)))
    op.add_column("tokens", sa.Column("bundle_id", sa.String(36)))
    op.add_column("groups", sa.Column("parent", sa.String(36)))
    op.execute("UPDATE tokens SET scope = 'endpoints:register' WHERE label LIKE 'code for endpoint %'")
    op.create_index("ix_tokens_user_no", "tokens", ["user_no"])
    calls = sa.text("task_id IS NOT NULL")
    op.create_index("ix_tokens_calls", "tokens", ["expires"], sqlite_where=calls, postgresql_where=calls)


def downgrade() -> None:
    """Drop them; tokens of calls would become tokens of their users, so they are deleted."""
    op.execute("DELETE FROM tokens WHERE task_id IS NOT NULL")
    op.drop_index("ix_tokens_calls", "tokens")
    op.drop_index("ix_tokens_user_no", "tokens")
    op.drop_column("groups", "parent")
    for name in ("bundle_id", "task_id", "scope"):
        op.drop_column("tokens", name)
