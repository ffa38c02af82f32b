"""Submissions that are accepted while another transaction has the lock of their endpoint, on PostgreSQL.

Their tasks are stored at once, but the counters that they change (``loads``, ``groups.size``) belong to the
transaction that has the lock. So they add a row here, and the next transaction that refills the window of the
endpoint counts it. SQLite has one writer at a time, so there the table is always empty.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, bindparam, delete, func, select, update

from . import shared
from .statements import Dialect, Statement, insert_into
from .tables import arrivals, groups


class Arrival(NamedTuple):
    """Calls that were accepted: their user, their group, how many they are, and their priority."""

    user_no: int
    group_no: int
    calls: int
    priority: int


_COLUMNS = ("endpoint_no", *Arrival._fields)
_add = insert_into(arrivals, *_COLUMNS)
_take = Statement(
    lambda d: delete(arrivals)
    .where(arrivals.c.endpoint_no == bindparam("endpoint"))
    .returning(*(arrivals.c[name] for name in Arrival._fields))
)
_grow_group = Statement(
    lambda d: update(groups)
    .values(size=groups.c.size + bindparam("count"))
    .where(groups.c.no == bindparam("group"))
)
_waiting = Statement(
    lambda d: select(arrivals.c.endpoint_no).where(d.among(arrivals.c.endpoint_no, "nos")).distinct()
)


def add(connection: Connection, endpoint_no: int, arrival: Arrival) -> None:
    """Record calls for the next transaction that has the lock of the endpoint."""
    _add.each(connection, _COLUMNS, [(endpoint_no, *arrival)])


def count(connection: Connection, endpoint_no: int, own: Arrival | None = None) -> list[Arrival]:
    """Count and return the recorded calls of an endpoint and the caller's, who has the endpoint's lock."""
    arrived = [] if own is None else [own]
    if connection.dialect.name != "sqlite":
        arrived += map(Arrival._make, _take.rows(connection, endpoint=endpoint_no))
    live: Counter[int] = Counter()
    sizes: Counter[int] = Counter()
    for user_no, group_no, calls, _ in arrived:
        live[user_no] += calls
        sizes[group_no] += calls
    if arrived:
        loads = {(endpoint_no, user_no): shared.Load(live=calls) for user_no, calls in live.items()}
        shared.change_loads(connection, loads)
        # in order, which makes deadlocks with transactions of other endpoints less likely
        _grow_group.each(connection, ("count", "group"), [(n, no) for no, n in sorted(sizes.items())])
    return arrived


def waiting(connection: Connection, endpoint_nos: Sequence[int]) -> list[int]:
    """Return the endpoints that have calls to be counted."""
    if connection.dialect.name == "sqlite" or not endpoint_nos:
        return []
    return [no for (no,) in _waiting.rows(connection, nos=list(endpoint_nos))]


def by_endpoint(connection: Connection, condition: Any) -> dict[int, int]:
    """Return the numbers of recorded calls under a condition, by endpoint."""
    if connection.dialect.name == "sqlite":
        return {}
    columns = arrivals.c.endpoint_no, func.sum(arrivals.c.calls)
    query = select(*columns).where(condition).group_by(arrivals.c.endpoint_no)
    return {no: int(calls) for no, calls in connection.execute(query)}


def uncounted(dialect: Dialect, condition: Any) -> Any:
    """Return the number of recorded calls under a condition, as an SQL expression."""
    if dialect.name == "sqlite":
        return 0
    query: Select[Any] = select(func.coalesce(func.sum(arrivals.c.calls), 0)).where(condition)
    return query.scalar_subquery()
