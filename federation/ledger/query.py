"""Reads tasks and groups from the ledger."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Connection, Row, Select, func, select

from umbel.protocol.states import LIVE, TaskState

from ..context import Federation
from ..db.statements import constant
from ..db.tables import endpoints, functions, groups, nodes, submissions, tasks
from ..registry.pagination import fetch
from ..registry.users import User
from .results import queue_time
from .task_rows import group_not_found, task_not_found

_TASK = (
    tasks,
    functions.c.id.label("function_id"),
    functions.c.name.label("function_name"),
    endpoints.c.id.label("endpoint_id"),
    groups.c.id.label("group_id"),
    nodes.c.name.label("node"),
    submissions.c.options,
)


def _tasks() -> Select[Any]:
    return (
        select(*_TASK)
        .join(functions, functions.c.no == tasks.c.function_no)
        .join(endpoints, endpoints.c.no == tasks.c.endpoint_no)
        .join(groups, groups.c.no == tasks.c.group_no)
        .join(submissions, submissions.c.no == tasks.c.submission_no)
        .outerjoin(nodes, nodes.c.no == tasks.c.node_no)
    )


def _describe(row: Row[Any]) -> dict[str, Any]:
    """Return a task in the form of the API."""
    options = json.loads(row.options)
    shown = {
        name: getattr(row, name)
        for name in (
            "id state group_id function_id function_name endpoint_id attempt retried priority created "
            "expires dispatched started finished wall node code message result_size completion"
        ).split()
    }
    return {
        **shown,
        "options": options,
        "tags": options.get("tags", []),
        "queued": queue_time(row.created, row.started),
        "usage": json.loads(row.usage) if row.usage else None,
    }


def task(fed: Federation, user: User, task_id: str) -> dict[str, Any]:
    """Return one task. Raises NotFound."""
    with fed.database.read() as connection:
        return _describe(_one(connection, user, task_id))


def _one(connection: Connection, user: User, task_id: str) -> Row[Any]:
    row = connection.execute(_tasks().where(tasks.c.id == task_id, tasks.c.user_no == user.no)).first()
    if row is None:
        raise task_not_found(task_id)
    return row


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

    ``since``, ``until``: bounds of the submission time, seconds since 1970. Raises BadRequest for an invalid
    cursor.
    """
    query = _tasks().where(tasks.c.user_no == user.no)
    if user.task_id is not None:
        query = query.where(groups.c.parent == user.task_id)
    if state is not None:
        query = query.where(tasks.c.state == constant(TaskState(state).value))
    if function_id is not None:
        query = query.where(functions.c.id == function_id)
    if endpoint_id is not None:
        query = query.where((endpoints.c.id == endpoint_id) | (endpoints.c.name == endpoint_id))
    if group_id is not None:
        query = query.where(groups.c.id == group_id)
    if since is not None:
        query = query.where(tasks.c.created >= since)
    if until is not None:
        query = query.where(tasks.c.created < until)
    with fed.database.read() as connection:
        found, following = fetch(connection, query, tasks.c.no, limit=limit, cursor=cursor)
    return [_describe(row) for row in found], following


def _group(connection: Connection, user: User, group_id: str) -> Row[Any]:
    row = connection.execute(
        select(groups).where(groups.c.id == group_id, groups.c.user_no == user.no)
    ).first()
    if row is None:
        raise group_not_found(group_id)
    return row


def group(fed: Federation, user: User, group_id: str) -> dict[str, Any]:
    """Return a group with the number of its tasks by state. Raises NotFound."""
    with fed.database.read() as connection:
        found = _group(connection, user, group_id)
        query = (
            select(tasks.c.state, func.count()).where(tasks.c.group_no == found.no).group_by(tasks.c.state)
        )
        counts = {state: count for state, count in connection.execute(query)}
    return {
        "id": found.id,
        "created": found.created,
        "total": sum(counts.values()),
        "states": counts,
        "finished": not any(counts.get(state.value) for state in LIVE),
    }
