"""What tasks wrote to standard output and error: kept of those that wrote anything, read in pieces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, delete, select

from umbel.protocol.limits import MAX_OUTPUT_BYTES
from umbel.protocol.records import Log, TaskLog
from umbel.protocol.states import FINAL, TaskState

from ..context import Federation
from ..db.statements import Dialect, Statement
from ..db.tables import groups, logs, tasks
from ..registry.users import User
from .task_rows import Task, unknown

_COLUMNS = ("task_no", "attempt", "head", "tail", "total")


def _upsert(dialect: Dialect) -> Any:
    statement = dialect.insert(logs)
    return statement.on_conflict_do_update(
        index_elements=["task_no"],
        set_={name: statement.excluded[name] for name in _COLUMNS[1:]},
        # a report that comes late or twice must not take anything away
        where=(statement.excluded.attempt > logs.c.attempt)
        | ((statement.excluded.attempt == logs.c.attempt) & (statement.excluded.total >= logs.c.total)),
    )


_store = Statement(_upsert, _COLUMNS)
_drop = Statement(lambda d: delete(logs).where(d.among(logs.c.task_no, "nos")))
_of_task = Statement(
    lambda d: select(
        tasks.c.state, tasks.c.attempt, groups.c.id, logs.c.attempt, logs.c.head, logs.c.tail, logs.c.total
    )
    .join(groups, groups.c.no == tasks.c.group_no)
    .outerjoin(logs, logs.c.task_no == tasks.c.no)
    .where(tasks.c.id == bindparam("id"), tasks.c.user_no == bindparam("user"))
)


def keep(connection: Connection, said: Sequence[TaskLog], found: Mapping[str, Task]) -> list[str]:
    """Keep what a report says that tasks wrote; return the ids of those with news.

    ``found``: the endpoint's tasks by id, as they were before the report. A task that had ended keeps what
    it has, but one that was cancelled: what it wrote before it was stopped comes afterwards.
    """
    values, news = [], []
    for task_id, attempt, log in said:
        task = found.get(task_id)
        if task is None or attempt > task.attempt + (task.state == TaskState.QUEUED):
            continue
        if task.state in FINAL and task.state != TaskState.CANCELLED:
            continue
        half = MAX_OUTPUT_BYTES // 2
        head, tail = log.head[:half], log.tail[max(0, len(log.tail) - half) :]
        values.append((task.no, attempt, head, tail, max(len(head) + len(tail), min(log.total, 2**62))))
        news.append(task_id)
    _store.each(connection, _COLUMNS, values)
    return news


def drop(connection: Connection, task_nos: Sequence[int]) -> None:
    """Forget what these tasks wrote."""
    _drop.run(connection, nos=list(task_nos))


def group_of(fed: Federation, user: User, task_id: str) -> str:
    """Id of a task's group. Raises NotFound."""
    with fed.database.read() as connection:
        return str(_find(connection, user, task_id)[2])


def log_from(fed: Federation, user: User, task_id: str, offset: int, attempt: int | None) -> dict[str, Any]:
    """Return what a task wrote from byte ``offset`` on. Raises NotFound.

    ``offset`` is counted in what the try ``attempt`` wrote (None: the one that is kept); of another try all
    is returned. The answer's ``offset`` is the one to ask with next, ``ended`` tells that nothing will
    follow.
    """
    with fed.database.read() as connection:
        state, tried, _, kept, head, tail, total = _find(connection, user, task_id)
    ended = TaskState(state) in FINAL
    if kept is None:
        log, kept = Log(b"", b"", 0), tried
    else:
        log = Log(bytes(head), bytes(tail), total)
    if attempt is not None and attempt != kept:
        offset = 0
    text, offset = cut(log, offset, whole=ended)
    return {
        "task_id": task_id,
        "state": state,
        "attempt": kept,
        "text": text,
        "offset": offset,
        "size": log.total,
        "ended": ended,
    }


def cut(log: Log, offset: int, *, whole: bool) -> tuple[str, int]:
    """Text of a log from byte ``offset`` on, and the offset after it.

    Where bytes are not kept, a line says how many. Unless the log is ``whole``, a character that is not yet
    there in full is left for the next time.
    """
    offset = min(offset, log.total)
    data = log.head[offset:]
    offset = max(offset, len(log.head))
    kept_from = log.total - len(log.tail)
    if offset < kept_from:
        gap = f"... {kept_from - offset:,} bytes are left out ..."
        data += b"" if not data or data.endswith(b"\n") else b"\n"
        data += gap.encode() + b"\n"
        offset = kept_from
    data += log.tail[offset - kept_from :]
    unfinished = 0 if whole else _unfinished(data)
    return data[: len(data) - unfinished].decode("utf-8", "replace"), log.total - unfinished


def _unfinished(data: bytes) -> int:
    """How many bytes at the end are the beginning of a character whose rest is missing."""
    for back in range(1, min(4, len(data) + 1)):
        byte = data[-back]
        if byte & 0xC0 == 0xC0:
            wanted = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return back if back < wanted else 0
        if byte < 0x80:
            return 0
    return 0


def _find(connection: Connection, user: User, task_id: str) -> tuple[Any, ...]:
    row = _of_task.first(connection, id=task_id, user=user.no)
    if row is None:
        raise unknown(task_id)
    return row
