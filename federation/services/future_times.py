"""Corrects stored times that lie in the future, because the clock of a process was wrong.

Otherwise a bundle is not checked, and a node is not considered lost, before that time.
"""

from __future__ import annotations

import logging

from sqlalchemy import exists, select, update

from umbel.protocol import names

from ..context import Federation
from ..db.tables import bundles, nodes

log = logging.getLogger(__name__)

#: How far a stored time may be ahead, because the clocks of several machines differ, seconds.
TOLERANCE = 60.0


def correct_future_times(fed: Federation) -> None:
    """Replace times of bundles, nodes and broker that lie in the future by the present time."""
    now = fed.clock()
    latest = now + TOLERANCE
    columns = bundles.c.sent, nodes.c.seen, nodes.c.since, nodes.c.lost
    with fed.database.read() as connection:
        wrong = [
            column
            for column in columns
            if connection.execute(select(exists(select(column.table.c.no).where(column > latest)))).scalar()
        ]
    for column in wrong:
        with fed.database.write() as connection:
            statement = update(column.table).where(column > latest).values({column.name: now})
            count = connection.execute(statement).rowcount
        log.warning(
            "%d rows of %s had a time in the future and are corrected: a process had a wrong clock",
            count,
            column,
        )
    epoch = fed.broker.redis.get(names.EPOCH_KEY)
    if epoch is not None and float(epoch) > latest:
        fed.broker.redis.set(names.EPOCH_KEY, str(now))
