"""Limits of functions, to be shown.

Revision: 0008, after 0007.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; functions that were registered before have none."""
    op.add_column("functions", sa.Column("limits", sa.Text))


def downgrade() -> None:
    """Forget them: they stay in the functions' bodies."""
    op.drop_column("functions", "limits")
