"""Add many finished tasks to the ledger of a stopped service, directly in its SQLite file."""

from __future__ import annotations

import sqlite3
import uuid
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

#: Tasks per group, per blob of arguments and per blob of results.
PER_GROUP = 10_000
#: Seconds between the ends of two old tasks.
SPACING = 0.5

#: Columns that differ between the copies of a task; all others are copied. ``k.k`` is the index of a copy in
#: its group, from 0.
_OWN = {
    "id": "printf('%s%012x', :prefix, k.k)",
    "group_no": ":group_no",
    "submission_no": ":submission_no",
    "user_no": ":user_no",
    "endpoint_no": ":endpoint_no",
    "blob_no": ":blob_no",
    "result_blob_no": ":result_blob_no",
    "completion": "k.k + 1",
    "created": "t.created - :age - k.k * :spacing",
    "dispatched": "t.dispatched - :age - k.k * :spacing",
    "started": "t.started - :age - k.k * :spacing",
    "finished": "t.finished - :age - k.k * :spacing",
}
#: Columns of copies that wait.
_WAITING = {
    "state": "'queued'",
    "attempt": "0",
    "created": "t.created",
    **dict.fromkeys(
        (
            *("completion", "dispatched", "started", "finished", "wall", "usage", "node_no", "bundle_no"),
            *("result_blob_no", "result_offset", "result_size"),
        ),
        "NULL",
    ),
}


class Owner(NamedTuple):
    """Numbers of the rows of a user and of an endpoint."""

    user_no: int
    endpoint_no: int


def add(ledger: Path, count: int) -> None:
    """Copy a succeeded task of the ledger ``count`` times, with new groups, submissions and blobs.

    The copies finished before all existing tasks, half a second apart. Raises RuntimeError if there is no
    task to copy.
    """
    with closing(sqlite3.connect(ledger, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute("PRAGMA cache_size=-500000")
        task_no = template(connection)
        connection.execute("BEGIN IMMEDIATE")
        for begin in range(0, count, PER_GROUP):
            add_group(connection, task_no, begin, min(PER_GROUP, count - begin))
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def template(connection: sqlite3.Connection) -> int:
    """Return the number of a task to copy. Raises RuntimeError if there is none."""
    row = connection.execute(
        "SELECT no FROM tasks WHERE state = 'succeeded' AND result_blob_no IS NOT NULL "
        "ORDER BY no DESC LIMIT 1"
    ).fetchone()
    if row is None:
        raise RuntimeError("the ledger contains no succeeded task with a result to copy")
    return int(row[0])


def add_group(
    connection: sqlite3.Connection,
    task_no: int,
    begin: int,
    size: int,
    owner: Owner | None = None,
    *,
    waiting: bool = False,
) -> int:
    """Add a group of copies of a task; return its number.

    ``begin``: number of newer copies; ``owner``: default that of the task; ``waiting``: the copies are
    queued instead of finished.
    """
    values = _copy_parents(connection, task_no, size, owner, waiting)
    values |= {"age": 3600 + begin * SPACING, "spacing": SPACING, "task_no": task_no, "size": size}
    names = [name for name in _columns(connection, "tasks") if name != "no"]
    own = {**_OWN, **(_WAITING if waiting else {})}
    taken = [own.get(name, f"t.{name}") for name in names]
    connection.execute(
        "WITH RECURSIVE k(k) AS (SELECT 0 UNION ALL SELECT k + 1 FROM k WHERE k + 1 < :size) "
        f"INSERT INTO tasks ({', '.join(names)}) "
        f"SELECT {', '.join(taken)} FROM k, tasks t WHERE t.no = :task_no",
        {**values, "prefix": str(uuid.uuid4())[:24]},
    )
    return int(values["group_no"] or 0)


def _copy_parents(
    connection: sqlite3.Connection, task_no: int, size: int, owner: Owner | None, waiting: bool
) -> dict[str, float | None]:
    """Copy a task's group, submission and blobs for ``size`` copies; return numbers for their columns."""
    query = "SELECT {} FROM tasks WHERE no = ?"
    group, submission, blob, result, *usual = connection.execute(
        query.format("group_no, submission_no, blob_no, result_blob_no, user_no, endpoint_no"), (task_no,)
    ).fetchone()
    user_no, endpoint_no = owner or Owner(*usual)
    ended = 0 if waiting else size
    group_no = _copy(
        connection, "groups", group, id=str(uuid.uuid4()), size=size, completions=ended, user_no=user_no
    )
    submission_no = _copy(
        connection, "submissions", submission, group_no=group_no, user_no=user_no, endpoint_no=endpoint_no
    )
    return {
        "group_no": group_no,
        "submission_no": submission_no,
        "user_no": user_no,
        "endpoint_no": endpoint_no,
        "blob_no": _copy(connection, "blobs", blob, refs=size),
        "result_blob_no": None if waiting else _copy(connection, "blobs", result, refs=size),
    }


def _copy(connection: sqlite3.Connection, table: str, no: int, **changes: object) -> int:
    """Copy row ``no`` of a table and change some columns; return the number of the copy."""
    names = [name for name in _columns(connection, table) if name != "no"]
    taken = [f":{name}" if name in changes else name for name in names]
    cursor = connection.execute(
        f"INSERT INTO {table} ({', '.join(names)}) SELECT {', '.join(taken)} FROM {table} WHERE no = :no",
        {**changes, "no": no},
    )
    return int(cursor.lastrowid or 0)


def _columns(connection: sqlite3.Connection, table: str) -> list[str]:
    return [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
