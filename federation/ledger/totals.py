"""Checks the running totals of ``loads`` against the rows they count, and corrects them.

Every transaction that changes tasks or bundles changes the totals, too. A mistake there, or an edit by hand,
would otherwise last: windows that stay full, or endpoints that nobody can submit to. Calls that are recorded
in ``arrivals`` are not in the totals yet.
"""

from __future__ import annotations

import logging
from typing import Any

from sqlalchemy import Connection, bindparam, case, delete, func, literal_column, select, union_all

from umbel.protocol.states import TaskState

from .. import dispatch
from ..context import Federation
from ..db import shared
from ..db.shared import Load
from ..db.statements import Dialect, Statement, constant
from ..db.tables import arrivals, bundles, loads, tasks

log = logging.getLogger(__name__)

#: Rows without any load, of users who are idle now, that are kept.
IDLE_ROWS = 1000

_stored = Statement(
    lambda d: select(loads.c.user_no, *(loads.c[name] for name in Load._fields)).where(
        loads.c.endpoint_no == bindparam("endpoint")
    )
)


def _counted_queue(dialect: Dialect) -> Any:
    """Return the query for each user's queued calls minus those that are recorded in ``arrivals``.

    One statement sees both: calls are accepted at the same time, without the endpoint's lock.
    """
    queued = (
        select(tasks.c.user_no, func.count().label("calls"))
        .where(
            tasks.c.state == constant(TaskState.QUEUED.value), tasks.c.endpoint_no == bindparam("endpoint")
        )
        .group_by(tasks.c.user_no)
    )
    if dialect.name == "sqlite":
        return queued
    arrived = select(arrivals.c.user_no, -arrivals.c.calls).where(
        arrivals.c.endpoint_no == bindparam("endpoint")
    )
    both = union_all(queued, arrived).subquery()
    return select(both.c.user_no, func.sum(both.c.calls)).group_by(both.c.user_no)


_queued = Statement(_counted_queue)
_runs = case((tasks.c.state == constant(TaskState.RUNNING.value), 1), else_=0)
_calls = (
    select(
        tasks.c.user_no,
        func.count().label("sent"),
        func.sum(_runs).label("running"),
        func.max(bundles.c.cores).label("occupied"),
    )
    .join(bundles, bundles.c.no == tasks.c.bundle_no)
    .where(bundles.c.endpoint_no == bindparam("endpoint"))
    .group_by(bundles.c.no, tasks.c.user_no)
    .subquery()
)
_sent = Statement(
    lambda d: select(
        _calls.c.user_no, *(func.sum(_calls.c[name]) for name in ("sent", "running", "occupied"))
    ).group_by(_calls.c.user_no)
)
_next = Statement(
    lambda d: select(func.min(loads.c.endpoint_no)).where(loads.c.endpoint_no > bindparam("no"))
)


def differences(connection: Connection, endpoint_no: int) -> dict[tuple[int, int], Load]:
    """Count an endpoint's tasks and bundles; return what its loads lack, by (endpoint, user).

    The transaction has the endpoint's lock, or is one of ``Database.read``.
    """
    counted: dict[int, Load] = {
        user: Load(int(sent), int(sent), int(running), int(occupied))
        for user, sent, running, occupied in _sent.rows(connection, endpoint=endpoint_no)
    }
    for user, count in _queued.rows(connection, endpoint=endpoint_no):
        known = counted.get(user, Load())
        counted[user] = known._replace(live=known.live + int(count))
    stored = {user: Load(*totals) for user, *totals in _stored.rows(connection, endpoint=endpoint_no)}
    missing = {
        (endpoint_no, user): Load(
            *(a - b for a, b in zip(counted.get(user, Load()), stored.get(user, Load())))
        )
        for user in {*counted, *stored}
    }
    return {pair: load for pair, load in missing.items() if any(load)}


class TotalsCheck:
    """The checks of one sweeper: one endpoint after the other."""

    def __init__(self, fed: Federation):
        self._fed = fed
        self._last = 0

    def check_next(self) -> None:
        """Check the next endpoint, and correct its totals."""
        self._last = self._check_after(self._last)

    def _check_after(self, last: int) -> int:
        """Check the next endpoint with loads; return its number, or 0 after the last one."""
        with self._fed.database.read() as connection:
            endpoint_no = _next.value(connection, no=last)
            if endpoint_no is None or not differences(connection, endpoint_no):
                return endpoint_no or 0
        with self._fed.database.write() as connection:
            shared.lock_endpoints(connection, [endpoint_no])
            wrong = differences(connection, endpoint_no)
            shared.change_loads(connection, wrong)
        dispatch.catch_up(self._fed, [endpoint_no])
        log.error("endpoint number %d: running totals were wrong and are corrected: %s", endpoint_no, wrong)
        return int(endpoint_no)


def delete_idle(fed: Federation) -> int:
    """Delete the rows of loads that are all 0, if there are many; return how many."""
    idle = [loads.c[name] == literal_column("0") for name in Load._fields]
    with fed.database.read() as connection:
        count = connection.execute(select(func.count()).select_from(loads).where(*idle)).scalar_one()
    if count <= IDLE_ROWS:
        return 0
    with fed.database.write() as connection:
        return connection.execute(delete(loads).where(*idle)).rowcount
