"""Environments of functions, for display.

Revision: 0006, after 0005.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; existing functions have no environment."""
    op.add_column("functions", sa.Column("environment", sa.Text))


def downgrade() -> None:
    """Drop the column; environments remain in the functions' bodies."""
    op.drop_column("functions", "environment")
