"""Epochs of the ledger: a restored backup, or a database that lost its last transactions, gets a new one.

Completion numbers are unique within an epoch only, so readers start over when it changes. What was dispatched
is compared with the nodes again, because the ledger no longer knows what happened since the backup.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import Connection, func, insert, select, update

from umbel.protocol import names

from ..db import shared
from ..db.tables import bundles, endpoints, epochs, loads, tasks

#: Epoch of bundles that were recorded in a state of the ledger that was lost, or by an earlier release:
#: whether they were run is unknown. (An endpoint without an epoch has 0; its bundles are not pushed.)
BEFORE = -1


class Mark(NamedTuple):
    """A state of the ledger: within one epoch, a later state has a larger mark."""

    epoch: str
    mark: int


def current_epoch() -> Any:
    """Return the scalar subquery of the current epoch's id."""
    return select(epochs.c.id).order_by(epochs.c.no.desc()).limit(1).scalar_subquery()


def current_mark(connection: Connection) -> Mark:
    """Return the ledger's present mark."""
    row = connection.execute(select(epochs.c.id, epochs.c.mark).order_by(epochs.c.no.desc()).limit(1)).one()
    return Mark(row.id, row.mark)


def is_known(connection: Connection, epoch: str) -> bool:
    """Return whether the ledger has had this epoch."""
    return connection.execute(select(epochs.c.no).where(epochs.c.id == epoch)).first() is not None


def activity(connection: Connection) -> tuple[int, int]:
    """Return (last task, unfinished tasks), which change with almost everything that is worth a mark."""
    last = connection.execute(select(func.coalesce(func.max(tasks.c.no), 0))).scalar_one()
    live = connection.execute(select(func.coalesce(func.sum(loads.c.live), 0))).scalar_one()
    return int(last), int(live)


def advance(connection: Connection) -> Mark:
    """Increase the mark; return it."""
    last = select(func.max(epochs.c.no)).scalar_subquery()
    statement = update(epochs).where(epochs.c.no == last).values(mark=epochs.c.mark + 1)
    row = connection.execute(statement.returning(epochs.c.id, epochs.c.mark)).one()
    return Mark(row.id, row.mark)


def start_new_epoch(connection: Connection, now: float) -> Mark:
    """Begin an epoch after a rollback of the ledger; return its mark.

    All endpoints get new epochs, as after a loss of their keys. A bundle that is nowhere may have been run
    since the backup, on a node that this state does not know, so its attempt counts (see
    ``services.lost_bundles``).
    """
    mark = Mark(names.new_id(), 0)
    connection.execute(insert(epochs).values(id=mark.epoch, mark=0, created=now))
    shared.lock_endpoints(connection, connection.execute(select(endpoints.c.no)).scalars())
    connection.execute(update(endpoints).values(epoch=0))
    connection.execute(update(bundles).values(epoch=BEFORE))
    return mark
