"""Lists of tasks with filters, newest first, at a cost that depends on the page and not on the ledger.

The rows of ``tasks`` have no index per filter, which each task would pay for. A submission has one user,
function, endpoint and group, so tasks are read through the indexes of their submissions, newest submission
first. Only a state can be rare among the tasks of a submission: unsuccessful tasks have an index of their
own, and few queued or sent tasks are read from the queues and the bundles.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, func, select, tuple_

from umbel.protocol import names
from umbel.protocol.errors import BadRequest
from umbel.protocol.states import TaskState

from ..context import Federation
from ..db import shared
from ..db.arrivals import by_endpoint
from ..db.statements import constant, unindexed
from ..db.tables import arrivals, bundles, endpoints, functions, groups, loads, submissions, tasks
from ..registry.pagination import MAX_LIMIT
from ..registry.users import User
from .query import describe, described_tasks

#: Place of a task in the list: time of its submission, number of the submission, number of the task.
Place = tuple[float, int, int]
#: Up to this many queued or sent tasks of a user are sorted to find the newest; more are not rare.
MAX_SORTED = 10_000

_CURSOR = struct.Struct(">dqq")
_UNSUCCESSFUL = (TaskState.FAILED, TaskState.CANCELLED, TaskState.EXPIRED)
_SENT = (TaskState.DISPATCHED, TaskState.RUNNING)
_s, _t = submissions.c, tasks.c


def tasks_page(
    fed: Federation,
    user: User,
    *,
    state: str | None = None,
    function_id: str | None = None,
    endpoint_id: str | None = None,
    group_id: str | None = None,
    since: float | None = None,
    until: float | None = None,
    limit: int = 100,
    cursor: str | None = None,
) -> tuple[list[dict[str, Any]], str | None]:
    """Return a page of the user's tasks, newest first, and the cursor of the next page (None: last page).

    ``since``, ``until``: bounds of the submission time, seconds since 1970. ``limit`` is clamped to 1 to
    ``MAX_LIMIT``. Raises BadRequest for an invalid cursor.
    """
    after = decode(cursor) if cursor is not None else None
    limit = max(1, min(limit, MAX_LIMIT))
    with fed.database.read() as connection:
        filters = _filters(connection, user, function_id, endpoint_id, group_id)
        if filters is None:
            return [], None
        wanted = TaskState(state) if state is not None else None
        query = _query(connection, user, wanted, filters, since, until, after)
        numbers = list(connection.execute(query.limit(limit + 1)).scalars())
        rows = connection.execute(described_tasks().where(shared.among(connection, _t.no, numbers[:limit])))
        found = {row.no: row for row in rows}
    listed = [found[no] for no in numbers[:limit]]
    following = None
    if len(numbers) > limit:
        following = encode((listed[-1].created, listed[-1].submission_no, listed[-1].no))
    return [describe(row) for row in listed], following


def encode(place: Place) -> str:
    """Return the cursor of the page after a place."""
    return _CURSOR.pack(*place).hex()


def decode(cursor: str) -> Place:
    """Return the place in a cursor. Raises BadRequest."""
    try:
        created, submission_no, no = _CURSOR.unpack(bytes.fromhex(cursor))
    except (ValueError, struct.error):
        created, submission_no, no = math.nan, 0, 0
    if not math.isfinite(created):
        raise BadRequest(
            f"invalid cursor '{cursor[:64]}': pass the value of 'next' from the previous page",
            details={"cursor": cursor[:64]},
        )
    return created, submission_no, no


def _filters(
    connection: Connection, user: User, function_id: str | None, endpoint_id: str | None, group_id: str | None
) -> dict[str, list[int]] | None:
    """Return the numbers to look for, by column; None if a filter matches nothing of the user."""
    wanted: list[tuple[str, Any, ColumnElement[bool]]] = []
    mine = [] if group_id is None else [groups.c.id == group_id]
    if user.task_id is not None:  # the token of a call sees groups that it has created
        mine.append(groups.c.parent == user.task_id)
    if mine:
        wanted.append(("group_no", groups, and_(*mine)))
    if function_id is not None:
        wanted.append(("function_no", functions, functions.c.id == function_id))
    if endpoint_id is not None:
        column = endpoints.c.id if names.is_id(endpoint_id) else endpoints.c.name
        wanted.append(("endpoint_no", endpoints, column == endpoint_id))
    filters: dict[str, list[int]] = {}
    for name, table, matches in wanted:
        query = select(table.c.no).where(matches, table.c.user_no == user.no)
        filters[name] = list(connection.execute(query).scalars())
        if not filters[name]:
            return None
    return {**filters, "user_no": [user.no]}


def _query(
    connection: Connection,
    user: User,
    state: TaskState | None,
    filters: dict[str, list[int]],
    since: float | None,
    until: float | None,
    after: Place | None,
) -> Select[Any]:
    """Return the query for the numbers of the tasks, in order."""
    rare = _rare(connection, user, state) if state is not None else None
    columns = tasks.c if rare is not None else submissions.c
    # the first filter is the most selective one; that of the user is the last
    indexed = "user_no" if rare is not None else next(iter(filters))
    conditions = _matches(connection, columns, filters, indexed)
    if since is not None:
        conditions.append(columns.created >= since)
    if until is not None:
        conditions.append(columns.created < until)
    if state is not None:
        conditions.append(_t.state == constant(state.value))
    query = select(_t.no)
    if rare is not None:
        if after is not None:
            conditions.append(tuple_(_t.created, _t.submission_no, _t.no) < after)
        order = _t.created.desc(), _t.submission_no.desc(), _t.no.desc()
        return query.where(*rare, *conditions).order_by(*order)
    if after is not None:
        conditions.append(tuple_(_s.created, _s.no) <= after[:2])
        conditions.append((_s.no != after[1]) | (_t.no < after[2]))
    query = query.select_from(submissions.join(tasks, _t.submission_no == _s.no))
    return query.where(*conditions).order_by(_s.created.desc(), _s.no.desc(), _t.no.desc())


def _matches(
    connection: Connection, columns: Any, filters: dict[str, list[int]], indexed: str
) -> list[ColumnElement[bool]]:
    """Return the conditions of the filters; only the column ``indexed`` is searched by an index."""
    conditions: list[ColumnElement[bool]] = []
    for name, numbers in filters.items():
        column = columns[name] if name == indexed else unindexed(columns[name])
        # with one number the rows have the order of the index
        conditions.append(
            column == numbers[0] if len(numbers) == 1 else shared.among(connection, column, numbers)
        )
    return conditions


def _rare(connection: Connection, user: User, state: TaskState) -> list[ColumnElement[bool]] | None:
    """Return the condition that finds the tasks in a rare state; None if the state is not rare."""
    if state in _UNSUCCESSFUL:
        return [_t.state.in_([constant(each.value) for each in _UNSUCCESSFUL])]
    if state is TaskState.SUCCEEDED or state not in (*_SENT, TaskState.QUEUED):
        return None
    mine = loads.c.user_no == user.no
    count = {
        TaskState.QUEUED: loads.c.live - loads.c.sent,
        TaskState.DISPATCHED: loads.c.sent - loads.c.running,
        TaskState.RUNNING: loads.c.running,
    }[state]
    busy = select(loads.c.endpoint_no, func.sum(count)).where(mine, count > 0).group_by(loads.c.endpoint_no)
    counts = Counter(dict(map(tuple, connection.execute(busy))))
    if state is TaskState.QUEUED:
        counts.update(by_endpoint(connection, arrivals.c.user_no == user.no))
    if sum(counts.values()) > MAX_SORTED:
        return None
    if state is TaskState.QUEUED:
        return [shared.among(connection, _t.endpoint_no, list(counts))]
    places = select(bundles.c.no).where(shared.among(connection, bundles.c.endpoint_no, list(counts)))
    return [_t.bundle_no.in_(places)]
