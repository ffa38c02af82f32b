"""Reads results: of one task, or of a group from a cursor on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, select

from umbel.protocol.errors import Conflict
from umbel.protocol.states import FINAL, TaskState

from ..context import Federation
from ..db import shared
from ..db.arrivals import uncounted
from ..db.statements import Statement, maker
from ..db.tables import arrivals, groups, nodes, tasks
from ..registry.users import User
from .epochs import current_epoch
from .task_rows import group_not_found, task_not_found

#: Maximum bytes of results in one response of a long poll.
MAX_RESPONSE_BYTES = 6 * 1024 * 1024


class _FinishedTask(NamedTuple):
    """The columns of ``tasks`` that describe its end."""

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


_finished_task = maker(_FinishedTask)
_COLUMNS = [tasks.c[name] for name in _FinishedTask._fields]
_one = Statement(
    lambda d: select(*_COLUMNS).where(tasks.c.id == bindparam("id"), tasks.c.user_no == bindparam("user"))
)
_group = Statement(
    lambda d: select(
        groups.c.no,
        groups.c.size + uncounted(d, arrivals.c.group_no == groups.c.no) - groups.c.completions,
        groups.c.completions,
        current_epoch(),
    ).where(groups.c.id == bindparam("id"), groups.c.user_no == bindparam("user"))
)
_after = Statement(
    lambda d: select(*_COLUMNS)
    .where(tasks.c.group_no == bindparam("group"), tasks.c.completion > bindparam("after"))
    .order_by(tasks.c.completion)
    .limit(bindparam("most"))
)
_node_names = Statement(lambda d: select(nodes.c.no, nodes.c.name).where(d.among(nodes.c.no, "nos")))


def queue_time(created: float, started: float | None) -> float | None:
    """Return seconds from submission (service's clock) to start (node's clock); None before the start."""
    return None if started is None else max(0.0, started - created)


def result(fed: Federation, user: User, task_id: str) -> dict[str, Any]:
    """Return a task's final state and result. Raises NotFound, Conflict (RESULT_NOT_READY)."""
    with fed.database.read() as connection:
        row = _one.first(connection, id=task_id, user=user.no)
        if row is None:
            raise task_not_found(task_id)
        ended = _FinishedTask._make(row)
        if TaskState(ended.state) not in FINAL:
            raise Conflict(
                f"task '{task_id}' has no result yet (state: {ended.state}): wait for it, for example with "
                "GET /v1/groups/{id}/results",
                code="RESULT_NOT_READY",
                details={"state": ended.state},
            )
        return _describe(connection, [ended])[0]


def results_after(
    fed: Federation, user: User, group_id: str, after: int, limit: int, epoch: str | None = None
) -> dict[str, Any]:
    """Return the finished tasks of a group with completion numbers above ``after``, in that order.

    ``epoch``: the epoch of the response that contained ``after``; if it is not the current one, ``after``
    counts as 0. ``cursor``: the next value for ``after``; ``live``: number of unfinished tasks in the group.
    Raises NotFound.
    """
    with fed.database.read() as connection:
        found = _group.first(connection, id=group_id, user=user.no)
        if found is None:
            raise group_not_found(group_id)
        group_no, live, completions, current = found
        after, epoch = _place(after, epoch, completions, current)
        rows_after = _after.rows(connection, group=group_no, after=after, most=limit)
        ended = _within(list(map(_finished_task, rows_after)), MAX_RESPONSE_BYTES)
        shown = _describe(connection, ended)
    cursor = ended[-1].completion if ended else after
    return {"results": shown, "cursor": cursor, "live": live, "epoch": epoch}


def _place(after: int, epoch: str | None, completions: int, current: str) -> tuple[int, str]:
    """Return the completion number to start after, and the epoch of the response.

    A cursor beyond the last completion number shows that the ledger was rolled back, even if that has not
    been noticed elsewhere: this reader gets an epoch of its own, ``<epoch>.<completions>``.
    """
    if epoch is None:
        return after, current
    if epoch.partition(".")[0] != current:
        return 0, current
    return (0, f"{current}.{completions}") if after > completions else (after, epoch)


def _within(ended: Sequence[_FinishedTask], most: int) -> Sequence[_FinishedTask]:
    """Return leading rows with at most ``most`` bytes of results in total; at least one row."""
    size = 0
    for index, row in enumerate(ended):
        size += row.result_size or 0
        if size > most and index:
            return ended[:index]
    return ended


def _describe(connection: Connection, ended: Sequence[_FinishedTask]) -> list[dict[str, Any]]:
    """Return results in the form of the API, except that ``result`` and ``exception`` are bytes."""
    if not ended:
        return []
    blobs = shared.read_blobs(connection, {row.result_blob_no for row in ended})
    numbers = sorted({row.node_no for row in ended if row.node_no is not None})
    nodes_by_no: dict[int | None, str] = dict(_node_names.rows(connection, nos=numbers)) if numbers else {}
    # calls of a bundle that were too short to be measured share one record
    usages = {text: json.loads(text) if text else None for text in {row.usage for row in ended}}
    return [_outcome(row, blobs, nodes_by_no, usages[row.usage]) for row in ended]


def _outcome(
    row: _FinishedTask,
    blobs: dict[int, bytes],
    nodes_by_no: dict[int | None, str],
    usage: dict[str, Any] | None,
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
