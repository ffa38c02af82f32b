"""Refills windows outside the transactions that change tasks."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import Connection, func, literal_column, select, true

from ..context import Federation
from ..db import arrivals, shared
from ..db.errors import RETRYABLE
from ..db.tables import loads, nodes
from .refill import PlannedBundle, refill
from .send import send

log = logging.getLogger(__name__)

#: Maximum refills in a row for calls that continue to arrive; the sweeper refills after that.
ROUNDS = 8


def endpoints_to_refill(fed: Federation, connection: Connection) -> list[int]:
    """Return the numbers of endpoints whose calls wait although their window has room, or are not counted.

    Changes nothing.
    """
    queued = func.sum(loads.c.live - loads.c.sent) > 0
    columns = loads.c.endpoint_no, func.sum(loads.c.occupied)
    query = select(*columns).where(loads.c.live > 0).group_by(loads.c.endpoint_no).having(queued)
    waiting = {no: int(occupied) for no, occupied in connection.execute(query)}
    live = nodes.c.live == literal_column("1")
    among = shared.among(connection, nodes.c.endpoint_no, list(waiting))
    sums = select(nodes.c.endpoint_no, func.sum(nodes.c.slots)).where(among, live)
    slots = {no: int(count) for no, count in connection.execute(sums.group_by(nodes.c.endpoint_no))}
    room = {no for no, used in waiting.items() if used < fed.settings.window * (slots.get(no) or 1)}
    return sorted(room.union(arrivals.by_endpoint(connection, true())))


def refill_if_free(fed: Federation, endpoint_no: int) -> bool:
    """Refill an endpoint's window and send the bundles; return False if another transaction has its lock."""
    with fed.database.write() as connection:
        if not shared.lock_free_endpoint(connection, endpoint_no):
            return False
        planned = refill(fed, connection, endpoint_no, fed.clock())
    send(fed, planned)
    return True


def after_commit(
    fed: Federation,
    planned: Sequence[PlannedBundle],
    endpoint_nos: Iterable[int],
    blobs: Mapping[int, bytes] | None = None,
) -> None:
    """Do what must follow a transaction that has refilled the windows of endpoints: send, and catch up.

    ``planned``: the bundles that it has recorded; ``blobs``: see ``send``.
    """
    send(fed, planned, blobs)
    catch_up(fed, endpoint_nos)


def catch_up(fed: Federation, endpoint_nos: Iterable[int]) -> None:
    """Refill the windows of endpoints at which calls were accepted while their locks were taken.

    Whoever accepts calls does not wait for the lock. So every transaction that refills windows is followed by
    this look, and so is every submission that did not get the lock. No call is left out: a submission that
    finds the lock taken is committed by then, and the transaction that has the lock looks after its own end.
    """
    left = [] if fed.database.sqlite else list(endpoint_nos)
    try:
        for _ in range(ROUNDS):
            if not left:
                return
            with fed.database.read() as connection:
                left = arrivals.waiting(connection, left)
            left = [no for no in left if refill_if_free(fed, no)]
    except RETRYABLE as error:
        log.warning("database unavailable; the sweeper sends the calls of %d endpoints: %s", len(left), error)
