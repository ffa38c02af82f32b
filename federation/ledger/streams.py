"""Items that tasks yield: stored as they arrive, for one run of a task at a time, and read in order.

A task may be started more than once, and each run yields from the beginning. A run is identified by its
bundle. The items of a run are stored until the task's current bundle yields; then they are replaced, and
later reports of the earlier run, including its end, are dropped.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, delete, func, select

from umbel.protocol.limits import MAX_STREAM_BYTES, MAX_STREAM_ITEMS
from umbel.protocol.records import Items, TaskItems
from umbel.protocol.states import FINAL, TaskState

from ..context import Federation
from ..db.statements import Dialect, Statement
from ..db.tables import items, streams, tasks
from ..registry.users import User
from .results import MAX_RESPONSE_BYTES
from .task_rows import Task, task_not_found

#: Time after the end of a task when missing items count as lost (the broker lost data), seconds.
MISSING_ITEMS_TIMEOUT = 60.0

_STREAM = ("task_no", "run", "bundle_id", "size", "total")
_ITEMS = ("task_no", "first", "sizes", "data")


def _upsert(dialect: Dialect) -> Any:
    statement = dialect.insert(streams)
    return statement.on_conflict_do_update(
        index_elements=["task_no"], set_={name: statement.excluded[name] for name in _STREAM[1:]}
    )


_known = Statement(
    lambda d: select(*(streams.c[name] for name in _STREAM)).where(d.among(streams.c.task_no, "nos"))
)
_store = Statement(_upsert, _STREAM)
# a duplicate report changes nothing
_add = Statement(lambda d: d.insert(items).on_conflict_do_nothing().returning(items.c.first), _ITEMS)
_drop_items = Statement(lambda d: delete(items).where(d.among(items.c.task_no, "nos")))
_drop_streams = Statement(lambda d: delete(streams).where(d.among(streams.c.task_no, "nos")))
_of_task = Statement(
    lambda d: select(tasks.c.no, tasks.c.state, tasks.c.finished, streams.c.run, streams.c.total)
    .outerjoin(streams, streams.c.task_no == tasks.c.no)
    .where(tasks.c.id == bindparam("id"), tasks.c.user_no == bindparam("user"))
)
_before = Statement(
    lambda d: select(func.max(items.c.first)).where(
        items.c.task_no == bindparam("task"), items.c.first <= bindparam("after")
    )
)
_sizes = Statement(
    lambda d: select(items.c.first, items.c.sizes)
    .where(items.c.task_no == bindparam("task"), items.c.first >= bindparam("start"))
    .order_by(items.c.first)
    .limit(bindparam("most"))
)
_data = Statement(
    lambda d: select(items.c.data)
    .where(items.c.task_no == bindparam("task"), d.among(items.c.first, "firsts"))
    .order_by(items.c.first)
)


class _Stream(NamedTuple):
    """A row of ``streams``."""

    task_no: int
    run: int
    bundle_id: str
    size: int
    total: int | None


def store(
    connection: Connection,
    streamed: Sequence[TaskItems],
    found: Mapping[str, Task],
    bundle_nos: Mapping[str, int],
) -> tuple[list[str], set[tuple[str, str]]]:
    """Store the items in a report.

    ``found``: the endpoint's tasks by id, as read before the report is applied; ``bundle_nos``: numbers of
    its bundles by id. Returns the ids of tasks with new items, and (bundle, task) of runs whose items are
    dropped because those of another run are stored.
    """
    nos = sorted({found[each.task_id].no for each in streamed if each.task_id in found})
    known = {row[0]: _Stream._make(row) for row in _known.rows(connection, nos=nos)}
    updated: list[str] = []
    superseded: set[tuple[str, str]] = set()
    for bundle_id, task_id, report in streamed:
        task = found.get(task_id)
        if task is None:
            continue
        stored = known.get(task.no)
        if stored is None or stored.bundle_id != bundle_id:
            present = task.bundle_no is not None and bundle_nos.get(bundle_id) == task.bundle_no
            if task.state in FINAL or not (present or stored is None):
                superseded.add((bundle_id, task_id))
                continue
            if stored is not None:
                _drop_items.run(connection, nos=[task.no])
            stored = _Stream(task.no, stored.run + 1 if stored is not None else 1, bundle_id, 0, None)
        known[task.no] = _append(connection, stored, report)
        updated.append(task_id)
    return updated, superseded


def _append(connection: Connection, stream: _Stream, report: Items) -> _Stream:
    """Append items to a stream, within its limits; return the updated stream."""
    size = sum(map(len, report.items))
    fits = (
        0 <= report.first <= MAX_STREAM_ITEMS - len(report.items) and stream.size + size <= MAX_STREAM_BYTES
    )
    if report.items and fits:
        sizes = json.dumps([*map(len, report.items)], separators=(",", ":"))
        data = b"".join(report.items)
        row = dict(zip(_ITEMS, (stream.task_no, report.first, sizes, data), strict=True))
        if _add.first(connection, **row) is not None:
            stream = stream._replace(size=stream.size + size)
    if report.total is not None and 0 <= report.total <= MAX_STREAM_ITEMS:
        stream = stream._replace(total=report.total)
    _store.each(connection, _STREAM, [stream])
    return stream


def drop(connection: Connection, task_nos: Sequence[int]) -> None:
    """Delete the items of these tasks."""
    _drop_items.run(connection, nos=list(task_nos))
    _drop_streams.run(connection, nos=list(task_nos))


def items_after(
    fed: Federation, user: User, task_id: str, after: int, run: int | None, limit: int, now: float
) -> dict[str, Any]:
    """Return the items of a task, without the first ``after`` ones. Raises NotFound.

    ``after`` refers to the items of ``run`` (None: the stored run); if another run is stored, all of its
    items are returned. ``run`` and ``cursor`` in the response are the next values to request. ``ended`` means
    that no more items follow; if ``cursor`` then differs from ``total``, items were lost.
    """
    with fed.database.read() as connection:
        row = _of_task.first(connection, id=task_id, user=user.no)
        if row is None:
            raise task_not_found(task_id)
        no, state, finished, stored, total = row
        stored = stored or 0
        if run is not None and run != stored:
            after = 0
        found = _read(connection, no, after, limit) if stored else []
    cursor = after + len(found)
    if total is not None and (finished is None or now - finished < MISSING_ITEMS_TIMEOUT):
        complete = cursor >= total
    else:
        complete = not found
    return {
        "task_id": task_id,
        "state": state,
        "run": stored,
        "items": [b64encode(item).decode() for item in found],
        "cursor": cursor,
        "total": total,
        "ended": TaskState(state) in FINAL and complete,
    }


def _read(connection: Connection, task_no: int, after: int, limit: int) -> list[bytes]:
    """Return items from number ``after`` on, up to the first gap or ``MAX_RESPONSE_BYTES``."""
    start = _before.value(connection, task=task_no, after=after)
    rows_to_read: list[tuple[int, list[int]]] = []
    count = size = 0
    for first, text in _sizes.rows(connection, task=task_no, start=start or 0, most=limit):
        sizes = json.loads(text)
        # two collectors may apply reports of one node out of order: later items wait for earlier ones
        if first > after + count or count >= limit or (count and size >= MAX_RESPONSE_BYTES):
            break
        new = sizes[after + count - first :]
        if new:
            rows_to_read.append((first, sizes))
            count, size = count + len(new), size + sum(new)
    found: list[bytes] = []
    rows = _data.rows(connection, task=task_no, firsts=[first for first, _ in rows_to_read])
    for (first, sizes), (data,) in zip(rows_to_read, rows, strict=True):
        ends = list(accumulate(sizes))
        skip = after + len(found) - first
        found += [bytes(data[end - size : end]) for size, end in zip(sizes[skip:], ends[skip:], strict=True)]
    return _within(found[:limit])


def _within(found: list[bytes]) -> list[bytes]:
    """Return leading items with at most ``MAX_RESPONSE_BYTES`` in total; at least one item."""
    for index, size in enumerate(accumulate(map(len, found))):
        if index and size > MAX_RESPONSE_BYTES:
            return found[:index]
    return found
