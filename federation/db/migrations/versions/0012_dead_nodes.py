"""An index of nodes that are dead, so that old ones are found and deleted.

Revision: 0012, after 0011.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the index."""
    where = sa.text("live = 0")
    op.create_index("ix_nodes_dead", "nodes", ["seen"], sqlite_where=where, postgresql_where=where)


def downgrade() -> None:
    """Drop it."""
    op.drop_index("ix_nodes_dead", "nodes")
