"""Reads tasks and groups from the ledger."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Connection, Row, Select, func, select

from umbel.protocol.states import LIVE

from ..context import Federation
from ..db.tables import endpoints, functions, groups, nodes, submissions, tasks
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


def described_tasks() -> Select[Any]:
    """Return the query for the rows that ``describe`` needs."""
    return (
        select(*_TASK)
        .join(functions, functions.c.no == tasks.c.function_no)
        .join(endpoints, endpoints.c.no == tasks.c.endpoint_no)
        .join(groups, groups.c.no == tasks.c.group_no)
        .join(submissions, submissions.c.no == tasks.c.submission_no)
        .outerjoin(nodes, nodes.c.no == tasks.c.node_no)
    )


def describe(row: Row[Any]) -> dict[str, Any]:
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
        return describe(_one(connection, user, task_id))


def _one(connection: Connection, user: User, task_id: str) -> Row[Any]:
    row = connection.execute(
        described_tasks().where(tasks.c.id == task_id, tasks.c.user_no == user.no)
    ).first()
    if row is None:
        raise task_not_found(task_id)
    return row


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
