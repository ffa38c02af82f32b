"""Epochs of the ledger.

Revision: 0010, after 0009.
"""

from __future__ import annotations

import time
import uuid

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Create the table with the first epoch."""
    epochs = op.create_table(
        "epochs",
        sa.Column("no", NUMBER, autoincrement=True),
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("mark", sa.BigInteger, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("no", name="pk_epochs"),
        sa.UniqueConstraint("id", name="uq_epochs_id"),
    )
    assert epochs is not None
    op.bulk_insert(epochs, [{"id": str(uuid.uuid4()), "mark": 0, "created": time.time()}])


def downgrade() -> None:
    """Drop the table; a rolled back ledger is not noticed any more."""
    op.drop_table("epochs")
