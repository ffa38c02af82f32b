"""What the ledger reads of a task to decide about it."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import Connection, bindparam, select

from umbel.protocol.errors import NotFound

from ..db.options import Options
from ..db.statements import Statement
from ..db.tables import submissions, tasks


class Task(NamedTuple):
    """A row of ``tasks``, as far as moves depend on it."""

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


COLUMNS = [tasks.c[name] for name in Task._fields]

_by_id = Statement(
    lambda d: select(*COLUMNS).where(d.among(tasks.c.id, "ids"), tasks.c.endpoint_no == bindparam("endpoint"))
)
_by_no = Statement(lambda d: select(*COLUMNS).where(d.among(tasks.c.no, "nos")))
_by_bundle = Statement(lambda d: select(*COLUMNS).where(d.among(tasks.c.bundle_no, "bundles")))
_options = Statement(
    lambda d: select(submissions.c.no, submissions.c.options).where(d.among(submissions.c.no, "nos"))
)


def of_endpoint(connection: Connection, endpoint_no: int, ids: list[str]) -> dict[str, Task]:
    """Tasks of one endpoint by id; ids that are not tasks of it are left out."""
    found = _by_id.rows(connection, ids=ids, endpoint=endpoint_no)
    return {row[1]: Task._make(row) for row in found}


def numbered(connection: Connection, nos: list[int]) -> list[Task]:
    """Tasks by number."""
    return list(map(Task._make, _by_no.rows(connection, nos=nos)))


def in_bundles(connection: Connection, bundle_nos: list[int]) -> list[Task]:
    """The unfinished tasks of bundles."""
    return list(map(Task._make, _by_bundle.rows(connection, bundles=bundle_nos))) if bundle_nos else []


def options_of(connection: Connection, found: list[Task]) -> dict[int, Options]:
    """The options of tasks' submissions, by submission number."""
    wanted = sorted({task.submission_no for task in found})
    return (
        {no: Options.from_json(text) for no, text in _options.rows(connection, nos=wanted)} if wanted else {}
    )


def unknown(task_id: str) -> NotFound:
    """The error of those who ask for a task that there is not, or that is another user's."""
    return NotFound(
        f"there is no task '{task_id}' (finished tasks are forgotten after the retention time)",
        code="TASK_NOT_FOUND",
    )
