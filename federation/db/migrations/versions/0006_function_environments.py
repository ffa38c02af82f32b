"""Environments of functions, to be shown.

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
    """Add the column; functions that were registered before need nothing."""
    op.add_column("functions", sa.Column("environment", sa.Text))


def downgrade() -> None:
    """Forget them: they stay in the functions' bodies."""
    op.drop_column("functions", "environment")
