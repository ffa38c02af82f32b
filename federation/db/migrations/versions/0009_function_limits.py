"""Limits of functions, for display.

Revision: 0009, after 0008.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; existing functions have no limits."""
    op.add_column("functions", sa.Column("limits", sa.Text))


def downgrade() -> None:
    """Drop the column; limits remain in the functions' bodies."""
    op.drop_column("functions", "limits")
