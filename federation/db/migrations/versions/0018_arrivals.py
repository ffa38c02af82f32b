"""Submissions that were accepted while their endpoint's lock was taken.

Revision: 0018, after 0017.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

_NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_REFERENCES = ("endpoint_no", "user_no", "group_no")


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "arrivals",
        sa.Column("no", _NUMBER, primary_key=True, autoincrement=True),
        *(sa.Column(name, _NUMBER, nullable=False) for name in _REFERENCES),
        sa.Column("calls", sa.Integer, nullable=False),
    )
    for name in _REFERENCES:
        op.create_index(f"ix_arrivals_{name.removesuffix('_no')}", "arrivals", [name])


def downgrade() -> None:
    """Count what is left, then drop the table."""
    op.execute(
        "INSERT INTO loads (endpoint_no, user_no, live)"
        " SELECT endpoint_no, user_no, sum(calls) FROM arrivals WHERE true GROUP BY endpoint_no, user_no"
        " ON CONFLICT (endpoint_no, user_no) DO UPDATE SET live = loads.live + excluded.live"
    )
    op.execute(
        "UPDATE groups SET size = size + (SELECT sum(calls) FROM arrivals WHERE group_no = groups.no)"
        " WHERE no IN (SELECT group_no FROM arrivals)"
    )
    op.drop_table("arrivals")
