"""Ends tasks: the only place that sets a terminal state and assigns the completion number."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, null, update

from ..db import shared
from ..db.statements import Statement
from ..db.tables import tasks
from .task_rows import Task


class Completion(NamedTuple):
    """The end of one task: its terminal state and result."""

    task: Task
    state: str
    code: str | None = None
    message: str | None = None
    started: float | None = None
    wall: float | None = None
    node_no: int | None = None
    usage: str | None = None
    blob_no: int | None = None
    offset: int | None = None
    size: int | None = None


# in the order of the table's columns, which is the parameter order of an UPDATE
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
_finish = Statement(
    lambda d: update(tasks)
    .values(bundle_no=null(), **{name: bindparam("v_" + name) for name in _VALUES})
    .where(tasks.c.no == bindparam("v_no"))
)


def finish_tasks(connection: Connection, completions: Sequence[Completion], now: float) -> dict[str, int]:
    """End unfinished tasks, each once; return the last completion number by group id.

    The caller holds the locks of the endpoints and has read the tasks as unfinished in this transaction.
    """
    if not completions:
        return {}
    by_group: dict[int, list[Completion]] = defaultdict(list)
    for completion in completions:
        by_group[completion.task.group_no].append(completion)
    values: list[tuple[Any, ...]] = []
    last: dict[str, int] = {}
    for group_no in sorted(by_group):
        number, group_id = shared.next_completions(connection, group_no, len(by_group[group_no]))
        for number, completion in enumerate(by_group[group_no], number):
            task, state, code, message, started, wall, node_no, usage, *result = completion
            row = state, node_no, started, wall, now, number, code, message, usage, *result, task.no
            values.append(row)
        last[group_id] = number
    _finish.each(connection, ["v_" + name for name in _VALUES] + ["v_no"], values)
    ended = [completion.task for completion in completions]
    loads = shared.close_bundles(connection, ended)
    for pair, count in Counter((task.endpoint_no, task.user_no) for task in ended).items():
        loads[pair] = loads.get(pair, shared.Load())._replace(live=-count)
    shared.change_loads(connection, loads)
    return last
