"""Rows of tasks as the ledger reads them to decide about state changes."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import Connection, bindparam, select

from umbel.protocol.errors import NotFound
from umbel.protocol.messages import Row

from ..db.options import Options
from ..db.statements import Statement, maker
from ..db.tables import submissions, tasks


class Task(NamedTuple):
    """The columns of ``tasks`` on which state changes depend."""

    no: int
    id: str
    state: str
    attempt: int
    retried: int
    interrupted: int
    group_no: int
    user_no: int
    endpoint_no: int
    function_no: int
    submission_no: int
    bundle_no: int | None


as_task = maker(Task)
#: A task and a row of a report about it.
Pair = tuple[Task, Row]
COLUMNS = [tasks.c[name] for name in Task._fields]

_by_id = Statement(
    lambda d: select(*COLUMNS).where(d.among(tasks.c.id, "ids"), tasks.c.endpoint_no == bindparam("endpoint"))
)
_by_no = Statement(lambda d: select(*COLUMNS).where(d.among(tasks.c.no, "nos")))
_by_bundle = Statement(lambda d: select(*COLUMNS).where(d.among(tasks.c.bundle_no, "bundles")))
_options = Statement(
    lambda d: select(submissions.c.no, submissions.c.options).where(d.among(submissions.c.no, "nos"))
)


def tasks_of_endpoint(connection: Connection, endpoint_no: int, ids: list[str]) -> dict[str, Task]:
    """Return the tasks of an endpoint by id; ids of other tasks are ignored."""
    found = _by_id.rows(connection, ids=ids, endpoint=endpoint_no)
    return {task.id: task for task in map(as_task, found)}


def tasks_by_number(connection: Connection, nos: list[int]) -> list[Task]:
    """Return tasks by number."""
    return list(map(as_task, _by_no.rows(connection, nos=nos)))


def tasks_in_bundles(connection: Connection, bundle_nos: list[int]) -> list[Task]:
    """Return the unfinished tasks of bundles."""
    return list(map(as_task, _by_bundle.rows(connection, bundles=bundle_nos))) if bundle_nos else []


def options_of(connection: Connection, found: list[Task]) -> dict[int, Options]:
    """Return the options of tasks' submissions, by submission number."""
    numbers = sorted({task.submission_no for task in found})
    rows = _options.rows(connection, nos=numbers) if numbers else []
    return {no: Options.from_json(text) for no, text in rows}


def group_not_found(group_id: str | None) -> NotFound:
    """Return the error for a group that does not exist or belongs to another user."""
    return NotFound(f"group '{group_id}' does not exist", code="GROUP_NOT_FOUND")


def task_not_found(task_id: str) -> NotFound:
    """Return the error for a task that does not exist or belongs to another user."""
    return NotFound(
        f"task '{task_id}' does not exist (finished tasks are deleted after the retention time)",
        code="TASK_NOT_FOUND",
    )
