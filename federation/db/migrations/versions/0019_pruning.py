"""When functions were used last, and an index of estimates by age.

Revision: 0019, after 0018.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column and the index."""
    op.add_column("functions", sa.Column("used", sa.Float))
    op.create_index("ix_estimates_updated", "estimates", ["updated"])


def downgrade() -> None:
    """Drop both."""
    op.drop_index("ix_estimates_updated", "estimates")
    op.drop_column("functions", "used")
