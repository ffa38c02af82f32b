"""What tasks yielded: kept as it comes, of one start of a task at a time, and read in its order.

A task may be started more than once, and each start yields from the beginning. Starts are told apart by their
bundles. The items of a start stay until the task's present bundle yields; from then on those count, and what
the earlier start may still say, its end included, is dropped.
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
from .results import ANSWER_BYTES
from .task_rows import Task, unknown

#: Items that have not come so long (seconds) after their task's end are lost: a broker lost its data.
OVERDUE = 60.0

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
# a report that comes twice brings nothing new
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


def keep(
    connection: Connection,
    streamed: Sequence[TaskItems],
    found: Mapping[str, Task],
    bundle_nos: Mapping[str, int],
) -> tuple[list[str], set[tuple[str, str]]]:
    """Keep what a report says that tasks yielded.

    ``found``: the endpoint's tasks by id, as they were before the report; ``bundle_nos``: numbers of its
    bundles by id. Returns the ids of tasks with news, and (bundle, task) of those starts whose items are not
    wanted because another one's are kept.
    """
    nos = sorted({found[each.task_id].no for each in streamed if each.task_id in found})
    known = {row[0]: _Stream._make(row) for row in _known.rows(connection, nos=nos)}
    news: list[str] = []
    unwanted: set[tuple[str, str]] = set()
    for bundle_id, task_id, told in streamed:
        task = found.get(task_id)
        if task is None:
            continue
        kept = known.get(task.no)
        if kept is None or kept.bundle_id != bundle_id:
            present = task.bundle_no is not None and bundle_nos.get(bundle_id) == task.bundle_no
            if task.state in FINAL or not (present or kept is None):
                unwanted.add((bundle_id, task_id))
                continue
            if kept is not None:
                _drop_items.run(connection, nos=[task.no])
            kept = _Stream(task.no, kept.run + 1 if kept is not None else 1, bundle_id, 0, None)
        known[task.no] = _append(connection, kept, told)
        news.append(task_id)
    return news, unwanted


def _append(connection: Connection, stream: _Stream, told: Items) -> _Stream:
    """Add items to a stream, within its bounds; return it as it is then."""
    size = sum(map(len, told.items))
    fits = 0 <= told.first <= MAX_STREAM_ITEMS - len(told.items) and stream.size + size <= MAX_STREAM_BYTES
    if told.items and fits:
        sizes = json.dumps([*map(len, told.items)], separators=(",", ":"))
        data = b"".join(told.items)
        row = dict(zip(_ITEMS, (stream.task_no, told.first, sizes, data), strict=True))
        if _add.first(connection, **row) is not None:
            stream = stream._replace(size=stream.size + size)
    if told.total is not None and 0 <= told.total <= MAX_STREAM_ITEMS:
        stream = stream._replace(total=told.total)
    _store.each(connection, _STREAM, [stream])
    return stream


def drop(connection: Connection, task_nos: Sequence[int]) -> None:
    """Forget what these tasks yielded."""
    _drop_items.run(connection, nos=list(task_nos))
    _drop_streams.run(connection, nos=list(task_nos))


def items_after(
    fed: Federation, user: User, task_id: str, after: int, run: int | None, limit: int, now: float
) -> dict[str, Any]:
    """Return what a task yielded, without the first ``after`` items. Raises NotFound.

    ``after`` is counted in what start ``run`` yielded (None: the one that is kept); of another start all is
    returned. ``run`` and ``cursor`` are what to ask with next; ``ended`` tells that nothing will follow; if
    ``cursor`` is not ``total`` then, items were lost.
    """
    with fed.database.read() as connection:
        row = _of_task.first(connection, id=task_id, user=user.no)
        if row is None:
            raise unknown(task_id)
        no, state, finished, kept, total = row
        kept = kept or 0
        if run is not None and run != kept:
            after = 0
        found = _read(connection, no, after, limit) if kept else []
    cursor = after + len(found)
    if total is not None and (finished is None or now - finished < OVERDUE):
        complete = cursor >= total
    else:
        complete = not found
    return {
        "task_id": task_id,
        "state": state,
        "run": kept,
        "items": [b64encode(item).decode() for item in found],
        "cursor": cursor,
        "total": total,
        "ended": TaskState(state) in FINAL and complete,
    }


def _read(connection: Connection, task_no: int, after: int, limit: int) -> list[bytes]:
    """The items from number ``after`` on, as far as they have come without a gap, up to ``ANSWER_BYTES``."""
    start = _before.value(connection, task=task_no, after=after)
    wanted: list[tuple[int, list[int]]] = []
    count = size = 0
    for first, text in _sizes.rows(connection, task=task_no, start=start or 0, most=limit):
        sizes = json.loads(text)
        # reports of one node may be taken in by two collectors: what overtook the others waits for them
        if first > after + count or count >= limit or (count and size >= ANSWER_BYTES):
            break
        new = sizes[after + count - first :]
        if new:
            wanted.append((first, sizes))
            count, size = count + len(new), size + sum(new)
    found: list[bytes] = []
    rows = _data.rows(connection, task=task_no, firsts=[first for first, _ in wanted])
    for (first, sizes), (data,) in zip(wanted, rows, strict=True):
        ends = list(accumulate(sizes))
        skip = after + len(found) - first
        found += [bytes(data[end - size : end]) for size, end in zip(sizes[skip:], ends[skip:], strict=True)]
    return _within(found[:limit])


def _within(found: list[bytes]) -> list[bytes]:
    """As many items as hold ``ANSWER_BYTES`` together; one at least."""
    for index, size in enumerate(accumulate(map(len, found))):
        if index and size > ANSWER_BYTES:
            return found[:index]
    return found
