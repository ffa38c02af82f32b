"""Runs of worker nodes, so that late heartbeats of an earlier run are recognized.

Revision: 0011, after 0010.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; the runs of existing nodes are unknown."""
    for name in ("incarnation", "beat"):
        op.add_column("nodes", sa.Column(name, sa.BigInteger, nullable=False, server_default="0"))


def downgrade() -> None:
    """Drop them."""
    for name in ("beat", "incarnation"):
        op.drop_column("nodes", name)
