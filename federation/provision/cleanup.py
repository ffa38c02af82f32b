"""Retention: rows of ended blocks are deleted after the same time as tasks; their node-hours are kept."""

from __future__ import annotations

from collections import defaultdict

from sqlalchemy import delete, select, update

from ..context import Federation
from ..db import shared
from ..db.tables import blocks, sites
from .records.blocks import DAY

#: Rows deleted in one transaction.
BATCH = 500
#: Shortest retention of a row, seconds: the daily budget is computed from the rows.
MIN_RETENTION = 2 * DAY
#: PostgreSQL advisory lock of the sweeper that deletes; an arbitrary number.
LOCK = 7_566_268_767


def delete_old_blocks(fed: Federation, now: float) -> int:
    """Delete one batch of blocks that ended before the retention time; return how many.

    Their node-hours are added to the total of their site in the same transaction, so the total budget is
    unchanged.
    """
    old = blocks.c.ended < now - max(MIN_RETENTION, fed.settings.retention)
    with fed.database.read() as connection:  # usually there is none, and then no write lock is taken
        if connection.execute(select(blocks.c.no).where(old).limit(1)).first() is None:
            return 0
    columns = (getattr(blocks.c, name) for name in ("no", "endpoint_no", "nodes", "started", "ended"))
    with fed.database.write() as connection:
        if not shared.try_advisory_lock(connection, LOCK):
            return 0  # another sweeper is deleting
        found = connection.execute(select(*columns).where(old).order_by(blocks.c.no).limit(BATCH)).all()
        hours: dict[int, float] = defaultdict(float)
        for row in found:
            if row.started is not None:
                hours[row.endpoint_no] += row.nodes * max(0.0, row.ended - row.started) / 3600.0
        for endpoint_no, spent in hours.items():
            values = {"forgotten_hours": sites.c.forgotten_hours + spent}
            connection.execute(update(sites).where(sites.c.endpoint_no == endpoint_no).values(**values))
        connection.execute(
            delete(blocks).where(shared.among(connection, blocks.c.no, [row.no for row in found]))
        )
    return len(found)
