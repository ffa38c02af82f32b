"""Retention: rows of blocks that have ended go after the same time as tasks; what they cost is remembered."""

from __future__ import annotations

from collections import defaultdict

from sqlalchemy import delete, select, update

from ..context import Federation
from ..db import shared
from ..db.tables import blocks, sites
from .records.blocks import DAY

#: Rows deleted in one transaction.
BATCH = 500
#: The budget of a day is counted from the rows themselves, so they stay at least so long, seconds.
LEAST = 2 * DAY
#: Advisory lock of PostgreSQL that the one sweeper holds that deletes (any number will do).
LOCK = 7_566_268_767


def forget_blocks(fed: Federation, now: float) -> int:
    """Delete one batch of blocks that ended longer ago than the retention time; return how many.

    Their node-hours are added to their site's in the same transaction, so that the budget in total stays.
    """
    old = blocks.c.ended < now - max(LEAST, fed.settings.retention)
    with fed.database.read() as connection:  # mostly there is nothing, and then nobody waits for us
        if connection.execute(select(blocks.c.no).where(old).limit(1)).first() is None:
            return 0
    columns = (getattr(blocks.c, name) for name in ("no", "endpoint_no", "nodes", "started", "ended"))
    with fed.database.write() as connection:
        if not shared.try_advisory_lock(connection, LOCK):
            return 0  # another sweeper is at it
        found = connection.execute(select(*columns).where(old).order_by(blocks.c.no).limit(BATCH)).all()
        hours: dict[int, float] = defaultdict(float)
        for row in found:
            if row.started is not None:
                hours[row.endpoint_no] += row.nodes * max(0.0, row.ended - row.started) / 3600.0
        for endpoint_no, more in hours.items():
            values = {"forgotten_hours": sites.c.forgotten_hours + more}
            connection.execute(update(sites).where(sites.c.endpoint_no == endpoint_no).values(**values))
        connection.execute(
            delete(blocks).where(shared.among(connection, blocks.c.no, [row.no for row in found]))
        )
    return len(found)
