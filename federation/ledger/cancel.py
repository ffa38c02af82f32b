"""Ending tasks before their time: cancelled by their user, expired in the queue, or too wide for all nodes.

The ledger says so at once and for ever; what runs or waits at an endpoint is told to stop, and whatever it
reports afterwards is dropped.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, exists, func, literal_column, select

from umbel.protocol.errors import NotFound
from umbel.protocol.states import FINAL, TaskState

from .. import dispatch
from ..broker.client import BrokerError
from ..context import Federation
from ..db import shared
from ..db.tables import endpoints, groups, nodes, tasks
from ..registry.users import User
from .completion import Ending, end_tasks
from .query import task as shown_task
from .task_rows import Task, numbered, unknown

log = logging.getLogger(__name__)

#: Tasks ended in one transaction.
BATCH = 2000
#: A node must have been live, and a call have waited, so long (seconds) before a call counts as too wide.
SETTLED = 10.0


def cancel_task(fed: Federation, user: User, task_id: str) -> dict[str, Any]:
    """Cancel a task if it has not ended; return it as it is then. Raises NotFound."""
    with fed.database.read() as connection:
        query = select(tasks.c.no, tasks.c.endpoint_no)
        row = connection.execute(query.where(tasks.c.id == task_id, tasks.c.user_no == user.no)).first()
    if row is None:
        raise unknown(task_id)
    _end_some(fed, [row], TaskState.CANCELLED)
    return shown_task(fed, user, task_id)


def cancel_group(fed: Federation, user: User, group_id: str) -> dict[str, Any]:
    """Cancel all tasks of a group that have not ended; return ``{"cancelled": how many}``. Raises
    NotFound."""
    with fed.database.read() as connection:
        query = select(groups.c.no).where(groups.c.id == group_id, groups.c.user_no == user.no)
        group_no = connection.execute(query).scalar()
    if group_no is None:
        raise NotFound(f"there is no group '{group_id}'", code="GROUP_NOT_FOUND")
    count, last = 0, 0
    while True:
        with fed.database.read() as connection:
            live = select(tasks.c.no, tasks.c.endpoint_no).where(
                tasks.c.group_no == group_no, tasks.c.finished.is_(None), tasks.c.no > last
            )
            found = connection.execute(live.order_by(tasks.c.no).limit(BATCH)).all()
        if not found:
            return {"cancelled": count}
        count += _end_some(fed, found, TaskState.CANCELLED)
        last = found[-1].no


def expire(fed: Federation, now: float) -> int:
    """End tasks that have not started before their time; return how many."""
    with fed.database.read() as connection:
        query = select(tasks.c.no, tasks.c.endpoint_no).where(
            tasks.c.expires <= now, tasks.c.finished.is_(None), tasks.c.state != TaskState.RUNNING.value
        )
        found = connection.execute(query.limit(BATCH)).all()
    return _end_some(fed, found, TaskState.EXPIRED) if found else 0


def refuse_wide(fed: Federation, now: float) -> int:
    """Fail queued calls that want more slots than any node of their endpoint has; return how many.

    Only where a node has been live for a while: others may have needed as long to come.
    """
    own, there = nodes.alias(), nodes.alias()
    most = select(func.max(own.c.slots)).where(own.c.endpoint_no == tasks.c.endpoint_no).scalar_subquery()
    online = exists().where(
        there.c.endpoint_no == tasks.c.endpoint_no, there.c.live == 1, there.c.since < now - SETTLED
    )
    query = select(tasks.c.no, tasks.c.endpoint_no).where(
        # constants, not parameters: so the partial index is recognised
        tasks.c.state == literal_column("'queued'"),
        tasks.c.cores > literal_column("1"),
        tasks.c.cores > most,
        tasks.c.created < now - SETTLED,
        online,
    )
    with fed.database.read() as connection:
        found = connection.execute(query.limit(BATCH)).all()
    return _end_some(fed, found, TaskState.FAILED) if found else 0


#: Code and message of tasks that are ended here, by state.
_WHY: dict[TaskState, tuple[str | None, str]] = {
    TaskState.CANCELLED: (None, "cancelled by its user"),
    TaskState.EXPIRED: (None, "not started before its 'expires'"),
    TaskState.FAILED: (
        "NOT_ALLOWED",
        "it wants more slots ('cores') than any node of its endpoint has: ask for fewer, or use another one",
    ),
}


def _end_some(fed: Federation, found: Sequence[Any], state: TaskState) -> int:
    """End those of the found tasks (no, endpoint_no) that are live; return how many."""
    now = time.time()
    endpoint_nos = {row.endpoint_no for row in found}
    with fed.database.write() as connection:
        shared.lock_endpoints(connection, endpoint_nos)
        live = _live(connection, [row.no for row in found], state)
        endings = [Ending(task, state, *_WHY[state]) for task in live]
        groups_with_news = end_tasks(connection, endings, now)
        sent = _at_endpoints(connection, live)
        planned = [plan for no in sorted(endpoint_nos) for plan in dispatch.refill(fed, connection, no, now)]
    dispatch.send(fed, planned)
    try:
        fed.broker.wake(groups_with_news)
        for endpoint_id, task_ids in sent.items():
            fed.broker.cancel(endpoint_id, task_ids)
    except BrokerError as error:
        log.warning(
            "broker unreachable, %d ended calls may still run: %s", sum(map(len, sent.values())), error
        )
    return len(live)


def _live(connection: Connection, nos: list[int], state: TaskState) -> list[Task]:
    """The tasks that may move to ``state``."""
    return [
        row
        for row in numbered(connection, nos)
        if row.state not in FINAL and TaskState(row.state).may_become(state)
        # what was sent meanwhile has found a node
        and (state is not TaskState.FAILED or row.state == TaskState.QUEUED)
    ]


def _at_endpoints(connection: Connection, ended: Sequence[Task]) -> dict[str, list[str]]:
    """Ids of the tasks that were sent already, by endpoint id."""
    sent: dict[int, list[str]] = defaultdict(list)
    for row in ended:
        if row.bundle_no is not None:
            sent[row.endpoint_no].append(row.id)
    if not sent:
        return {}
    query = select(endpoints.c.no, endpoints.c.id).where(
        shared.among(connection, endpoints.c.no, sorted(sent))
    )
    return {endpoint_id: sent[no] for no, endpoint_id in connection.execute(query)}
