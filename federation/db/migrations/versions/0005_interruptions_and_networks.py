"""Interrupted calls are counted apart; how a site's nodes reach the broker, and its last decisions.

Revision: 0005, after 0004.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns."""
    op.add_column("tasks", sa.Column("interrupted", sa.SmallInteger, nullable=False, server_default="0"))
    op.add_column("sites", sa.Column("network", sa.Text, nullable=False, server_default="{}"))
    op.add_column("sites", sa.Column("history", sa.Text, nullable=False, server_default="[]"))


def downgrade() -> None:
    """Drop them."""
    for table, column in (("sites", "history"), ("sites", "network"), ("tasks", "interrupted")):
        op.drop_column(table, column)
