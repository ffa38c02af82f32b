"""Measure what every statement sent to a database visits, and where it was sent from.

SQLite counts the instructions of its virtual machine, PostgreSQL (with ``auto_explain``) rows and blocks per
node of the plan. Both are measured while the real operations run, so no statement can be forgotten.
"""

# One concept: the recorder and what each database reports to it.
from __future__ import annotations

import json
import re
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock

import psycopg
from sqlalchemy import Connection, event

from federation.db import pipeline
from federation.db.engine import Database

ROOT = Path(__file__).resolve().parents[2]
#: Modules that only pass statements on.
PASSED_ON = {
    f"federation/{name}.py"
    for name in ("db/statements", "db/transactions", "db/pipeline", "registry/pagination")
}
#: SQLite instructions between two measurements.
_TICK = 20
#: Settings of a PostgreSQL connection under which the server sends each plan as a notice.
EXPLAIN = {
    "auto_explain.log_min_duration": "0",
    "auto_explain.log_analyze": "on",
    "auto_explain.log_buffers": "on",
    "auto_explain.log_timing": "off",
    "auto_explain.log_nested_statements": "off",
    "auto_explain.log_format": "json",
    "auto_explain.log_level": "notice",
}


@dataclass
class Execution:
    """One execution of a statement.

    ``site``: module and function that sent it. ``rows``: rows returned, changed, or given as parameters.
    ``visited``: SQLite instructions or PostgreSQL rows. ``scanned``: tables read from end to end.
    """

    site: str
    sql: str
    rows: int = 0
    visited: int = 0
    blocks: int = 0
    scanned: set[str] = field(default_factory=set)
    plan: str = ""
    values: Any = None


class Recorder:
    """What was executed, and the lines of the project that did it."""

    def __init__(self) -> None:
        self.executions: list[Execution] = []
        self.lines: set[tuple[str, int]] = set()
        self._posted: dict[str, str] = {}

    def post(self, sql: str) -> None:
        """Record where a statement comes from that is sent later."""
        self._posted[sql] = self._site()

    def start(self, sql: str, values: Any = None) -> Execution:
        """Record the beginning of a statement."""
        found = Execution(self._posted.get(sql) or self._site(), " ".join(sql.split()), values=values)
        self.executions.append(found)
        return found

    def _site(self) -> str:
        site = ""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            name = frame.f_code.co_filename
            if name.startswith(f"{ROOT}/federation/") or name.startswith(f"{ROOT}/webapp/"):
                module = name[len(str(ROOT)) + 1 :]
                self.lines.add((module, frame.f_lineno))
                if not site and module not in PASSED_ON:
                    site = f"{module}:{frame.f_code.co_name}"
            frame = frame.f_back
        return site


@contextmanager
def recorded(database: Database) -> Iterator[Recorder]:
    """Record every statement sent to a database during the block. It must have no open connection."""
    recorder = Recorder()
    if database.sqlite:
        listener: tuple[str, Any] = "do_connect", _sqlite_connections(recorder)
    else:
        listener = "connect", _postgresql_connections(recorder)
    database.engine.dispose()
    event.listen(database.engine, *listener)
    post = pipeline.post

    def posted(connection: Connection, calls: Sequence[pipeline.Call]) -> None:
        for sql, _ in calls:
            recorder.post(sql)
        post(connection, calls)

    try:
        with mock.patch.object(pipeline, "post", posted):
            yield recorder
    finally:
        event.remove(database.engine, *listener)
        if database.sqlite:
            _explain_scans(database, recorder)
        database.engine.dispose()


class _SqliteCursor(sqlite3.Cursor):
    """Attributes instructions and rows to statements."""

    running: Execution

    def execute(self, sql: str, values: Any = ()) -> Any:
        """Execute one statement."""
        self._begin(sql, values, _given(values))
        super().execute(sql, values)
        self.running.rows += max(0, self.rowcount)
        return self

    def executemany(self, sql: str, rows: Any) -> Any:
        """Execute one statement for many rows."""
        rows = list(rows)
        self._begin(sql, rows[0] if rows else (), len(rows))
        super().executemany(sql, rows)
        return self

    def _begin(self, sql: str, values: Any, rows: int) -> None:
        connection: Any = self.connection
        self.running = connection.recorder.start(sql, values)
        self.running.rows = rows
        connection.running = self.running

    def fetchall(self) -> Any:
        """Read all rows."""
        return self._read(super().fetchall)

    def fetchmany(self, size: Any = None) -> Any:
        """Read some rows."""
        return self._read(lambda: super(_SqliteCursor, self).fetchmany(size or self.arraysize))

    def fetchone(self) -> Any:
        """Read one row."""
        found = self._read(lambda: [super(_SqliteCursor, self).fetchone()])
        self.running.rows -= found[0] is None
        return found[0]

    def _read(self, read: Any) -> Any:
        connection: Any = self.connection
        connection.running = self.running
        found = read()
        self.running.rows += len(found)
        return found


class _SqliteConnection(sqlite3.Connection):
    """Counts instructions."""

    recorder: Recorder
    running: Execution | None = None

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.set_progress_handler(self._tick, _TICK)

    def _tick(self) -> int:
        if self.running is not None:
            self.running.visited += _TICK
        return 0

    def cursor(self, _factory: Any = None) -> Any:
        """Return a cursor that records."""
        return super().cursor(_SqliteCursor)

    def execute(self, sql: str, values: Any = ()) -> Any:
        """Execute one statement with a cursor that records."""
        return self.cursor().execute(sql, values)


def _sqlite_connections(recorder: Recorder) -> Any:
    factory = type("Connection", (_SqliteConnection,), {"recorder": recorder})

    def use(_dialect: Any, _record: Any, _args: Any, options: dict[str, Any]) -> None:
        options["factory"] = factory

    return use


def _given(values: Any) -> int:
    """Return the number of values in list parameters."""
    count = 0
    for value in values.values() if isinstance(values, dict) else values:
        if isinstance(value, str) and value.startswith("["):
            count += len(json.loads(value))
        elif isinstance(value, list):
            count += len(value)
    return count


def _in_arrays(sql: str, values: Any) -> int:
    """Return the number of values in arrays that are strings in PostgreSQL's format."""
    names = re.findall(r"%\((\w+)\)s::\w+\[\]", str(sql))
    return sum(values[name].count(",") + 1 for name in names if isinstance(values[name], str))


def _explain_scans(database: Database, recorder: Recorder) -> None:
    """Ask SQLite for the plan of every statement, and note which tables it scans."""
    plans: dict[str, tuple[str, set[str]]] = {}
    with sqlite3.connect(str(database.url.database)) as connection:
        for execution in recorder.executions:
            sql = execution.sql
            if not sql.startswith(("SELECT", "UPDATE", "DELETE", "INSERT", "WITH")):
                continue
            if sql not in plans:
                lines = [
                    row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", execution.values or ())
                ]
                scanned = {line.split()[1] for line in lines if line.startswith("SCAN ")}
                plans[sql] = "; ".join(lines), scanned
            execution.plan, execution.scanned = plans[sql]


def _postgresql_connections(recorder: Recorder) -> Any:
    executed: dict[str, Execution] = {}

    class Cursor(psycopg.Cursor[Any]):
        """Notes where statements come from: the server reports a plan only when the portal is closed."""

        def execute(self, query: Any, params: Any = None, **options: Any) -> Any:
            """Execute one statement."""
            executed[_anonymous(query)] = recorder.start(query)
            executed[_anonymous(query)].rows = _given(params or ()) + _in_arrays(query, params)
            return super().execute(query, params, **options)

        def executemany(self, query: Any, params_seq: Any, **options: Any) -> None:
            """Execute one statement for many rows."""
            executed[_anonymous(query)] = recorder.start(query)
            super().executemany(query, params_seq, **options)

    def noticed(diagnostic: Any) -> None:
        text = diagnostic.message_primary or ""
        if not text.startswith("duration:") or "plan:" not in text:
            return
        found = json.loads(text[text.index("{") :])
        origin = executed.get(_anonymous(found["Query Text"]), Execution("", ""))
        plan = found["Plan"]
        # statements of foreign keys belong to no place
        execution = Execution(origin.site, " ".join(found["Query Text"].split()), plan=_outline(plan))
        execution.rows = max(origin.rows, int(plan.get("Actual Rows", 0)))
        execution.blocks = int(plan.get("Shared Hit Blocks", 0)) + int(plan.get("Shared Read Blocks", 0))
        _add_node(execution, plan)
        recorder.executions.append(execution)

    def connected(driver: Any, _record: Any) -> None:
        driver.execute("LOAD 'auto_explain'")
        for name, value in EXPLAIN.items():
            driver.execute(f"SET {name} = '{value}'")
        driver.commit()
        driver.cursor_factory = Cursor
        driver.add_notice_handler(noticed)

    return connected


def _anonymous(sql: str) -> str:
    """Return a statement without the names of its parameters, which drivers and server write differently."""
    return re.sub(r"%\(\w+\)s|%s|\$\d+", "$", " ".join(str(sql).split()))


def _add_node(execution: Execution, node: dict[str, Any]) -> None:
    """Add what a node of a PostgreSQL plan visits."""
    loops = node.get("Actual Loops", 1)
    kind = node["Node Type"]
    if "Scan" in kind and kind not in ("CTE Scan", "Subquery Scan", "Function Scan"):
        removed = sum(int(value) for name, value in node.items() if name.startswith("Rows Removed"))
        execution.visited += int((node.get("Actual Rows", 0) + removed) * loops)
        if kind == "Seq Scan" and loops:
            execution.scanned.add(node["Relation Name"])
    if kind in ("Function Scan", "ModifyTable", "Limit"):
        execution.rows = max(execution.rows, int(node.get("Actual Rows", 0)))
    if kind == "ModifyTable":
        execution.rows = max([execution.rows, *(int(each["Actual Rows"]) for each in node.get("Plans", []))])
    for each in node.get("Plans", []):
        _add_node(execution, each)


def _outline(node: dict[str, Any]) -> str:
    name = " ".join(str(node[key]) for key in ("Node Type", "Relation Name", "Index Name") if key in node)
    own = f"{name} rows={node.get('Actual Rows')}x{node.get('Actual Loops')}"
    own += "".join(f" {key}={value}" for key, value in node.items() if key.startswith("Rows Removed"))
    return "; ".join([own, *map(_outline, node.get("Plans", []))])
