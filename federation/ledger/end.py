"""Ending tasks: the one place where a task gets a terminal state and its completion number."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, delete, select, update

from umbel.protocol.states import TaskState

from .. import rows
from ..tables import bundles, groups, tasks


class Ending(NamedTuple):
    """How one task ends. ``task``: a row with no, group_no, user_no, endpoint_no and bundle_no."""

    task: Any
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


_end = (
    update(tasks)
    .where(tasks.c.no == bindparam("t_no"))
    .values(
        state=bindparam("t_state"),
        bundle_no=None,
        finished=bindparam("t_finished"),
        completion=bindparam("t_completion"),
        code=bindparam("t_code"),
        message=bindparam("t_message"),
        started=bindparam("t_started"),
        wall=bindparam("t_wall"),
        node_no=bindparam("t_node"),
        usage=bindparam("t_usage"),
        result_blob_no=bindparam("t_blob"),
        result_offset=bindparam("t_offset"),
        result_size=bindparam("t_size"),
    )
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
    values: list[dict[str, Any]] = []
    last: dict[int, int] = {}
    for group_no in sorted(by_group):
        number = rows.next_completions(connection, group_no, len(by_group[group_no]))
        for ending in by_group[group_no]:
            values.append(_values(ending, number, now))
            number += 1
        last[group_no] = number - 1
    connection.execute(_end, values)
    rows.add_load(
        connection,
        {pair: -n for pair, n in Counter((e.task.endpoint_no, e.task.user_no) for e in endings).items()},
    )
    close_bundles(connection, Counter(e.task.bundle_no for e in endings if e.task.bundle_no is not None))
    query = select(groups.c.no, groups.c.id).where(rows.among(connection, groups.c.no, list(last)))
    return {group_id: last[no] for no, group_id in connection.execute(query)}


def _values(ending: Ending, completion: int, now: float) -> dict[str, Any]:
    return {
        "t_no": ending.task.no,
        "t_state": ending.state.value,
        "t_finished": now,
        "t_completion": completion,
        "t_code": ending.code,
        "t_message": ending.message,
        "t_started": ending.started,
        "t_wall": ending.wall,
        "t_node": ending.node_no,
        "t_usage": ending.usage,
        "t_blob": ending.blob_no,
        "t_offset": ending.offset,
        "t_size": ending.size,
    }


def close_bundles(connection: Connection, ended: Counter[int]) -> None:
    """Note that so many calls of each bundle are done with; bundles without open calls go."""
    if not ended:
        return
    statement = update(bundles).where(bundles.c.no == bindparam("b_no"))
    connection.execute(
        statement.values(open=bundles.c.open - bindparam("b_count")),
        [{"b_no": no, "b_count": count} for no, count in ended.items()],
    )
    connection.execute(
        delete(bundles).where(rows.among(connection, bundles.c.no, list(ended)), bundles.c.open <= 0)
    )
