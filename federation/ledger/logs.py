"""Standard output and error of tasks: stored for tasks that wrote any, readable from any offset."""

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
from .task_rows import Task, task_not_found

#: Replaces bytes in the middle of a log that are not stored; formatted with their number.
GAP = "... {:,} bytes omitted ..."

_COLUMNS = ("task_no", "attempt", "head", "tail", "total")


def _upsert(dialect: Dialect) -> Any:
    statement = dialect.insert(logs)
    return statement.on_conflict_do_update(
        index_elements=["task_no"],
        set_={name: statement.excluded[name] for name in _COLUMNS[1:]},
        # a late or duplicate report must not remove output
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


def store(connection: Connection, written: Sequence[TaskLog], found: Mapping[str, Task]) -> list[str]:
    """Store the output in a report; return the ids of tasks with new output.

    ``found``: the endpoint's tasks by id, as read before the report is applied. Output of finished tasks does
    not change, except after a cancellation: what a task wrote before it was stopped arrives later.
    """
    values, updated = [], []
    for task_id, attempt, log in written:
        task = found.get(task_id)
        if task is None or attempt > task.attempt + (task.state == TaskState.QUEUED):
            continue
        if task.state in FINAL and task.state != TaskState.CANCELLED:
            continue
        half = MAX_OUTPUT_BYTES // 2
        head, tail = log.head[:half], log.tail[max(0, len(log.tail) - half) :]
        values.append((task.no, attempt, head, tail, max(len(head) + len(tail), min(log.total, 2**62))))
        updated.append(task_id)
    _store.each(connection, _COLUMNS, values)
    return updated


def drop(connection: Connection, task_nos: Sequence[int]) -> None:
    """Delete the output of these tasks."""
    _drop.run(connection, nos=list(task_nos))


def group_of(fed: Federation, user: User, task_id: str) -> str:
    """Return the id of a task's group. Raises NotFound."""
    with fed.database.read() as connection:
        return str(_find(connection, user, task_id)[2])


def log_from(fed: Federation, user: User, task_id: str, offset: int, attempt: int | None) -> dict[str, Any]:
    """Return a task's output from byte ``offset`` on. Raises NotFound.

    ``offset`` refers to the output of ``attempt`` (None: the stored one); if another attempt is stored, all
    of its output is returned. ``offset`` in the response is the next offset to request; ``ended`` means that
    no more output follows.
    """
    with fed.database.read() as connection:
        state, tried, _, stored, head, tail, total = _find(connection, user, task_id)
    ended = TaskState(state) in FINAL
    if stored is None:
        log, stored = Log(b"", b"", 0), tried
    else:
        log = Log(bytes(head), bytes(tail), total)
    if attempt is not None and attempt != stored:
        offset = 0
    text, offset = cut(log, offset, whole=ended)
    return {
        "task_id": task_id,
        "state": state,
        "attempt": stored,
        "text": text,
        "offset": offset,
        "size": log.total,
        "ended": ended,
    }


def cut(log: Log, offset: int, *, whole: bool) -> tuple[str, int]:
    """Return the text of a log from byte ``offset`` on, and the offset after it.

    A line with their number replaces bytes that are not stored. Unless the log is ``whole``, an incomplete
    character at the end is left for the next call.
    """
    offset = min(offset, log.total)
    data = log.head[offset:]
    offset = max(offset, len(log.head))
    tail_start = log.total - len(log.tail)
    if offset < tail_start:
        gap = GAP.format(tail_start - offset)
        data += b"" if not data or data.endswith(b"\n") else b"\n"
        data += gap.encode() + b"\n"
        offset = tail_start
    data += log.tail[offset - tail_start :]
    unfinished = 0 if whole else _incomplete_bytes(data)
    return data[: len(data) - unfinished].decode("utf-8", "replace"), log.total - unfinished


def _incomplete_bytes(data: bytes) -> int:
    """Return the number of bytes at the end that form an incomplete UTF-8 character."""
    for back in range(1, min(4, len(data) + 1)):
        byte = data[-back]
        if byte & 0xC0 == 0xC0:
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return back if back < length else 0
        if byte < 0x80:
            return 0
    return 0


def _find(connection: Connection, user: User, task_id: str) -> tuple[Any, ...]:
    row = _of_task.first(connection, id=task_id, user=user.no)
    if row is None:
        raise task_not_found(task_id)
    return row
