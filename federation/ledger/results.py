"""Reading how tasks ended: one result, or those of a group from a cursor on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, select

from umbel.protocol.errors import Conflict, NotFound
from umbel.protocol.states import FINAL, TaskState

from ..context import Federation
from ..db import shared
from ..db.statements import Statement
from ..db.tables import groups, nodes, tasks
from ..registry.users import User
from .task_rows import unknown

#: Bytes of results in one answer of a long poll.
ANSWER_BYTES = 6 * 1024 * 1024


class _Ended(NamedTuple):
    """A row of ``tasks``, as far as its end is concerned."""

    id: str
    created: float
    completion: int
    state: str
    code: str | None
    message: str | None
    node_no: int | None
    started: float | None
    finished: float
    wall: float | None
    usage: str | None
    result_blob_no: int | None
    result_offset: int
    result_size: int


_COLUMNS = [tasks.c[name] for name in _Ended._fields]
_one = Statement(
    lambda d: select(*_COLUMNS).where(tasks.c.id == bindparam("id"), tasks.c.user_no == bindparam("user"))
)
_group = Statement(
    lambda d: select(groups.c.no, groups.c.size - groups.c.completions).where(
        groups.c.id == bindparam("id"), groups.c.user_no == bindparam("user")
    )
)
_after = Statement(
    lambda d: select(*_COLUMNS)
    .where(tasks.c.group_no == bindparam("group"), tasks.c.completion > bindparam("after"))
    .order_by(tasks.c.completion)
    .limit(bindparam("most"))
)
_node_names = Statement(lambda d: select(nodes.c.no, nodes.c.name).where(d.among(nodes.c.no, "nos")))


def queue_time(created: float, started: float | None) -> float | None:
    """Seconds from a task's submission to its start, by two clocks; None before it."""
    return None if started is None else max(0.0, started - created)


def result(fed: Federation, user: User, task_id: str) -> dict[str, Any]:
    """Return how a task ended and its result. Raises NotFound, Conflict (RESULT_NOT_READY)."""
    with fed.database.read() as connection:
        row = _one.first(connection, id=task_id, user=user.no)
        if row is None:
            raise unknown(task_id)
        ended = _Ended._make(row)
        if TaskState(ended.state) not in FINAL:
            raise Conflict(
                f"task '{task_id}' is {ended.state}: wait for it, e.g. with GET /v1/groups/{{id}}/results",
                code="RESULT_NOT_READY",
                details={"state": ended.state},
            )
        return _shown(connection, [ended])[0]


def results_after(fed: Federation, user: User, group_id: str, after: int, limit: int) -> dict[str, Any]:
    """Return the tasks of a group that ended with a completion number above ``after``, in that order.

    ``cursor`` is the number to ask with next; ``live`` how many tasks of the group have not ended. Raises
    NotFound.
    """
    with fed.database.read() as connection:
        found = _group.first(connection, id=group_id, user=user.no)
        if found is None:
            raise NotFound(f"there is no group '{group_id}'", code="GROUP_NOT_FOUND")
        group_no, live = found
        rows_after = _after.rows(connection, group=group_no, after=after, most=limit)
        ended = _within(list(map(_Ended._make, rows_after)), ANSWER_BYTES)
        shown = _shown(connection, ended)
    return {"results": shown, "cursor": ended[-1].completion if ended else after, "live": live}


def _within(ended: Sequence[_Ended], most: int) -> Sequence[_Ended]:
    """As many rows as hold ``most`` bytes of results together; one at least."""
    size = 0
    for index, row in enumerate(ended):
        size += row.result_size or 0
        if size > most and index:
            return ended[:index]
    return ended


def _shown(connection: Connection, ended: Sequence[_Ended]) -> list[dict[str, Any]]:
    """Finished tasks as the API shows their ends, but that ``result`` and ``exception`` are bytes here."""
    if not ended:
        return []
    blobs = shared.read_blobs(connection, {row.result_blob_no for row in ended})
    numbers = sorted({row.node_no for row in ended if row.node_no is not None})
    nodes_by_no: dict[int | None, str] = dict(_node_names.rows(connection, nos=numbers)) if numbers else {}
    # calls of one bundle that were too short to be measured have the same record
    usages = {row.usage: json.loads(row.usage) if row.usage else None for row in ended}
    return [_outcome(row, blobs, nodes_by_no, usages[row.usage]) for row in ended]


def _outcome(
    row: _Ended, blobs: dict[int, bytes], nodes_by_no: dict[int | None, str], usage: dict[str, Any] | None
) -> dict[str, Any]:
    id_, created, completion, state, code, message, node_no, started, finished, wall, _, blob, at, size = row
    data = None if blob is None else blobs[blob][at : at + size]
    succeeded = state == "succeeded"
    return {
        "task_id": id_,
        "completion": completion,
        "state": state,
        "code": code,
        "message": message,
        "result": data if succeeded else None,
        "exception": None if succeeded else data,
        "node": nodes_by_no.get(node_no),
        "queued": queue_time(created, started),
        "started": started,
        "finished": finished,
        "wall": wall,
        "usage": usage,
    }
