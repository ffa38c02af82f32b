"""Ending tasks: the one place where a task gets a terminal state and its completion number."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, null, update

from umbel.protocol.states import TaskState

from ..db import shared
from ..db.statements import Statement
from ..db.tables import tasks
from .task_rows import Task


class Ending(NamedTuple):
    """How one task ends."""

    task: Task
    state: TaskState
    code: str | None = None
    message: str | None = None
    started: float | None = None
    wall: float | None = None
    node_no: int | None = None
    usage: str | None = None
    blob_no: int | None = None
    offset: int | None = None
    size: int | None = None


# in the table's order of columns, which is the order of an UPDATE's parameters
_VALUES = (
    "state",
    "node_no",
    "started",
    "wall",
    "finished",
    "completion",
    "code",
    "message",
    "usage",
    "result_blob_no",
    "result_offset",
    "result_size",
)
_end = Statement(
    lambda d: update(tasks)
    .values(bundle_no=null(), **{name: bindparam("v_" + name) for name in _VALUES})
    .where(tasks.c.no == bindparam("v_no"))
)


def end_tasks(connection: Connection, endings: Sequence[Ending], now: float) -> dict[str, int]:
    """End live tasks, each once; return the ids of their groups with the last completion number given.

    The caller has read the tasks as live in this transaction and holds their endpoints' locks.
    """
    if not endings:
        return {}
    by_group: dict[int, list[Ending]] = defaultdict(list)
    for ending in endings:
        by_group[ending.task.group_no].append(ending)
    values: list[tuple[Any, ...]] = []
    last: dict[str, int] = {}
    for group_no in sorted(by_group):
        number, group_id = shared.next_completions(connection, group_no, len(by_group[group_no]))
        for number, ending in enumerate(by_group[group_no], number):
            task, state, code, message, started, wall, node_no, usage, blob_no, offset, size = ending
            values.append(
                (
                    state.value,
                    node_no,
                    started,
                    wall,
                    now,
                    number,
                    code,
                    message,
                    usage,
                    blob_no,
                    offset,
                    size,
                )
                + (task.no,)
            )
        last[group_id] = number
    _end.each(connection, ["v_" + name for name in _VALUES] + ["v_no"], values)
    ended = [ending.task for ending in endings]
    loads = Counter((task.endpoint_no, task.user_no) for task in ended)
    shared.add_load(connection, {pair: -count for pair, count in loads.items()})
    shared.close_bundles(connection, Counter(task.bundle_no for task in ended if task.bundle_no is not None))
    return last
