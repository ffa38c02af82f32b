"""Marks tasks as running that a report says have started."""

from __future__ import annotations

from collections import Counter, defaultdict

from sqlalchemy import Connection, bindparam, update

from umbel.protocol.states import TaskState

from ..db import shared
from ..db.statements import Statement, constant
from ..db.tables import tasks
from .task_rows import Pair

_run = Statement(
    lambda d: update(tasks)
    .values(
        state=constant(TaskState.RUNNING.value), node_no=bindparam("v_node"), started=bindparam("v_started")
    )
    .where(tasks.c.no == bindparam("v_no"), tasks.c.state == constant(TaskState.DISPATCHED.value))
)


def mark_running(connection: Connection, pairs: list[Pair], node_no: int) -> set[int]:
    """Mark sent tasks as running; return their numbers."""
    sent: dict[int, Pair] = {}
    for task, row in pairs:
        if task.state == TaskState.DISPATCHED:
            sent.setdefault(task.no, (task, row))
    values = [(node_no, row.started, no) for no, (_, row) in sent.items()]
    _run.each(connection, ("v_node", "v_started", "v_no"), values)
    counts = Counter((task.endpoint_no, task.user_no) for task, _ in sent.values())
    shared.change_loads(connection, {pair: shared.Load(running=count) for pair, count in counts.items()})
    return set(sent)


def as_running(by_status: dict[str, list[Pair]], running: set[int]) -> dict[str, list[Pair]]:
    """Return the pairs with the new state of tasks that the same report has started."""
    if not running or len(by_status) == 1:
        return by_status
    state = TaskState.RUNNING.value
    return defaultdict(
        list,
        {
            status: [(task._replace(state=state) if task.no in running else task, row) for task, row in pairs]
            for status, pairs in by_status.items()
        },
    )
