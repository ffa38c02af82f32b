"""Ends tasks early: cancelled, expired in the queue, or too wide for all nodes.

The new state is final at once. The endpoint is asked to stop the call; later reports about it are dropped.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, exists, func, literal_column, select

from umbel.protocol.states import FINAL, TaskState

from .. import dispatch
from ..broker.client import BrokerError
from ..context import Federation
from ..db import shared
from ..db.tables import endpoints, groups, nodes, tasks
from ..registry.users import User
from .completion import Completion, finish_tasks
from .query import task as shown_task
from .task_rows import Task, group_not_found, task_not_found, tasks_by_number

log = logging.getLogger(__name__)

#: Maximum number of tasks ended in one transaction.
BATCH = 2000
#: A call is too wide only after it has waited, and a node has been live, for this long, seconds.
NODE_GRACE = 10.0


def cancel_task(fed: Federation, user: User, task_id: str) -> dict[str, Any]:
    """Cancel a task if it has not ended; return the task. Raises NotFound."""
    with fed.database.read() as connection:
        query = select(tasks.c.no, tasks.c.endpoint_no)
        row = connection.execute(query.where(tasks.c.id == task_id, tasks.c.user_no == user.no)).first()
    if row is None:
        raise task_not_found(task_id)
    _finish_some(fed, [row], TaskState.CANCELLED)
    return shown_task(fed, user, task_id)


def cancel_tasks(
    fed: Federation, user: User, task_ids: Sequence[str], started: bool = True
) -> dict[str, Any]:
    """Cancel the unfinished tasks among ``task_ids``, as ``cancel_group`` does; return the same."""
    parts = [task_ids[begin : begin + BATCH] for begin in range(0, len(task_ids), BATCH)]
    kept: set[int] = set()
    if not started:
        with fed.database.read() as connection:
            sent = [row for part in parts for row in _unfinished_of(connection, user, part, _SENT)]
            kept = _may_run(connection, sent)
    count = 0
    for part in parts:
        with fed.database.read() as connection:
            found = [row for row in _unfinished_of(connection, user, part) if row.no not in kept]
        count += _finish_some(fed, found, TaskState.CANCELLED) if found else 0
    return {"cancelled": count}


def cancel_group(fed: Federation, user: User, group_id: str, started: bool = True) -> dict[str, Any]:
    """Cancel the unfinished tasks of a group; return ``{"cancelled": count}``. Raises NotFound.

    Without ``started``, tasks that run, or may have just started, continue.
    """
    with fed.database.read() as connection:
        query = select(groups.c.no).where(groups.c.id == group_id, groups.c.user_no == user.no)
        group_no = connection.execute(query).scalar()
        if group_no is None:
            raise group_not_found(group_id)
        sent = _LIVE.where(tasks.c.group_no == group_no, _SENT)
        kept = set() if started else _may_run(connection, connection.execute(sent).all())
    count, last = 0, 0
    while True:
        with fed.database.read() as connection:
            live = _LIVE.where(tasks.c.group_no == group_no, tasks.c.no > last)
            page = connection.execute(live.order_by(tasks.c.no).limit(BATCH)).all()
        if not page:
            return {"cancelled": count}
        found = [row for row in page if row.no not in kept]
        count += _finish_some(fed, found, TaskState.CANCELLED) if found else 0
        last = page[-1].no


_LIVE = select(tasks.c.no, tasks.c.endpoint_no, tasks.c.state, tasks.c.bundle_no).where(
    tasks.c.finished.is_(None)
)
_SENT = tasks.c.bundle_no.is_not(None)


def _unfinished_of(
    connection: Connection, user: User, task_ids: Sequence[str], *conditions: Any
) -> list[Any]:
    wanted = shared.among(connection, tasks.c.id, task_ids)
    return list(connection.execute(_LIVE.where(wanted, tasks.c.user_no == user.no, *conditions)).all())


def _may_run(connection: Connection, sent: Sequence[Any]) -> set[int]:
    """Return the numbers of the tasks that have started, or may have, among those sent to endpoints.

    The ledger learns with a delay that a call has started. Until then the first call of a bundle may be
    running, on as many bundles as the endpoint's live nodes have slots.
    """
    slots = _live_slots(connection, {row.endpoint_no for row in sent})
    bundles: set[int] = set()
    kept = set()
    for row in sorted(sent, key=lambda row: (row.state != TaskState.RUNNING, row.no)):
        runs = row.state == TaskState.RUNNING
        if runs or (row.bundle_no not in bundles and slots[row.endpoint_no] > 0):
            kept.add(row.no)
            bundles.add(row.bundle_no)
            slots[row.endpoint_no] -= 1
    return kept


def _live_slots(connection: Connection, endpoint_nos: set[int]) -> dict[int, int]:
    query = select(nodes.c.endpoint_no, func.sum(nodes.c.slots)).where(
        shared.among(connection, nodes.c.endpoint_no, sorted(endpoint_nos)), nodes.c.live == 1
    )
    found = {no: int(slots) for no, slots in connection.execute(query.group_by(nodes.c.endpoint_no))}
    return {no: found.get(no, 0) for no in endpoint_nos}


def expire(fed: Federation, now: float) -> int:
    """End tasks that have not started by their ``expires`` time; return how many."""
    with fed.database.read() as connection:
        query = select(tasks.c.no, tasks.c.endpoint_no).where(
            tasks.c.expires <= now, tasks.c.finished.is_(None), tasks.c.state != TaskState.RUNNING.value
        )
        found = connection.execute(query.limit(BATCH)).all()
    return _finish_some(fed, found, TaskState.EXPIRED) if found else 0


def fail_oversized(fed: Federation, now: float) -> int:
    """Fail queued calls that need more slots than any node of their endpoint has; return how many.

    This applies only when a node has been live for ``NODE_GRACE``, which gives other nodes time to join.
    """
    own, live = nodes.alias(), nodes.alias()
    most = select(func.max(own.c.slots)).where(own.c.endpoint_no == tasks.c.endpoint_no).scalar_subquery()
    online = exists().where(
        live.c.endpoint_no == tasks.c.endpoint_no, live.c.live == 1, live.c.since < now - NODE_GRACE
    )
    query = select(tasks.c.no, tasks.c.endpoint_no).where(
        # literals instead of parameters, so that the partial index can be used
        tasks.c.state == literal_column("'queued'"),
        tasks.c.cores > literal_column("1"),
        tasks.c.cores > most,
        tasks.c.created < now - NODE_GRACE,
        online,
    )
    with fed.database.read() as connection:
        found = connection.execute(query.limit(BATCH)).all()
    return _finish_some(fed, found, TaskState.FAILED) if found else 0


#: Code and message of tasks ended here, by state.
_REASONS: dict[TaskState, tuple[str | None, str]] = {
    TaskState.CANCELLED: (None, "cancelled by its user"),
    TaskState.EXPIRED: (None, "not started within its 'expires' time"),
    TaskState.FAILED: (
        "NOT_ALLOWED",
        "option 'cores' exceeds the slots of every node: request fewer slots, or use another endpoint",
    ),
}


def _finish_some(fed: Federation, found: Sequence[Any], state: TaskState) -> int:
    """End the unfinished tasks among ``found`` (no, endpoint_no); return how many."""
    now = fed.clock()
    endpoint_nos = {row.endpoint_no for row in found}
    with fed.database.write() as connection:
        shared.lock_endpoints(connection, endpoint_nos)
        live = _unfinished(connection, [row.no for row in found], state)
        completions = [Completion(task, state.value, *_REASONS[state]) for task in live]
        changed_groups = finish_tasks(connection, completions, now)
        sent = _sent_by_endpoint(connection, live)
        planned = [plan for no in sorted(endpoint_nos) for plan in dispatch.refill(fed, connection, no, now)]
    dispatch.after_commit(fed, planned, endpoint_nos)
    try:
        fed.broker.notify(changed_groups)
        for endpoint_id, task_ids in sent.items():
            fed.broker.cancel(endpoint_id, task_ids)
    except BrokerError as error:
        log.warning(
            "broker unreachable; %d ended calls may still run: %s", sum(map(len, sent.values())), error
        )
    return len(live)


def _unfinished(connection: Connection, nos: list[int], state: TaskState) -> list[Task]:
    """Return the unfinished tasks that may change to ``state``."""
    return [
        row
        for row in tasks_by_number(connection, nos)
        if row.state not in FINAL and TaskState(row.state).may_become(state)
        # a call that was sent in the meantime fits on a node
        and (state is not TaskState.FAILED or row.state == TaskState.QUEUED)
    ]


def _sent_by_endpoint(connection: Connection, ended: Sequence[Task]) -> dict[str, list[str]]:
    """Return the ids of tasks that were already sent, by endpoint id."""
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
