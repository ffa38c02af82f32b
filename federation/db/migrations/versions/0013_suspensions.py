"""Suspensions of endpoints, so that their owners see them.

Revision: 0013, after 0012.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; earlier suspensions are unknown."""
    op.add_column("endpoints", sa.Column("suspended", sa.Text))


def downgrade() -> None:
    """Drop it."""
    op.drop_column("endpoints", "suspended")
