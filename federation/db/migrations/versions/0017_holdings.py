"""What a node holds is in the broker: epochs of the endpoints' keys, descriptions of nodes.

Revision: 0017, after 0015.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add and drop columns. What was sent before is checked as after a loss of all keys."""
    op.add_column("endpoints", sa.Column("epoch", sa.BigInteger, nullable=False, server_default="0"))
    op.drop_index("ix_bundles_node", "bundles")
    with op.batch_alter_table("bundles") as table:
        table.add_column(sa.Column("epoch", sa.BigInteger, nullable=False, server_default="0"))
        table.drop_column("node_no")
        table.drop_column("held")
    # workers of an earlier release may run them, and their reports cannot be read
    op.execute("UPDATE bundles SET epoch = -1")
    op.drop_column("nodes", "beat")
    op.add_column("nodes", sa.Column("version", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("nodes", sa.Column("vitals", sa.Text, nullable=False, server_default="{}"))
    op.add_column("nodes", sa.Column("lost", sa.Float, nullable=False, server_default="0"))


def downgrade() -> None:
    """Undo it."""
    for name in ("lost", "vitals", "version"):
        op.drop_column("nodes", name)
    op.add_column("nodes", sa.Column("beat", sa.BigInteger, nullable=False, server_default="0"))
    number = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    with op.batch_alter_table("bundles") as table:
        table.drop_column("epoch")
        table.add_column(sa.Column("node_no", number, sa.ForeignKey("nodes.no", name="fk_bundles_node_no")))
        table.add_column(sa.Column("held", sa.Float))
    where = sa.text("node_no IS NOT NULL")
    op.create_index("ix_bundles_node", "bundles", ["node_no"], sqlite_where=where, postgresql_where=where)
    op.drop_column("endpoints", "epoch")
