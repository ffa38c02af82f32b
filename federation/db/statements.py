"""Statements of the hot path: written with SQLAlchemy, compiled once per database, run with tuples.

SQLAlchemy's execution builds an expression, a cache key, a parameter dictionary and a row object each time,
which is most of the cost on the path of every task. Only the generated SQL is used here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import (
    ColumnElement,
    Connection,
    Executable,
    Table,
    bindparam,
    func,
    insert,
    literal_column,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.types import BigInteger, String

from . import pipeline
from .bulk import MIN_ROWS, BulkStatement, array
from .errors import raise_translated

T = TypeVar("T")


class Dialect:
    """The differences between the databases, for use in ``Statement``."""

    def __init__(self, name: str):
        self.name = name

    def among(self, column: ColumnElement[Any], parameter: str) -> ColumnElement[bool]:
        """Return ``column IN parameter``; the parameter's value is converted by ``many``, any length."""
        if self.name == "sqlite":
            each = func.json_each(bindparam(parameter)).table_valued("value")
            return column.in_(select(each.c.value))
        kind = String() if isinstance(column.type, String) else BigInteger()
        return column == func.any(bindparam(parameter, type_=postgresql.ARRAY(kind)))

    def many(self, values: Sequence[int] | Sequence[str]) -> Any:
        """Convert values to the parameter of ``among``."""
        return json.dumps(list(values)) if self.name == "sqlite" else array(values)

    def insert(self, table: Table) -> Any:
        """Return an INSERT that supports ON CONFLICT."""
        return sqlite.insert(table) if self.name == "sqlite" else postgresql.insert(table)


def unindexed(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return an integer column in a form that no index matches, for conditions that exclude few rows.

    Without statistics SQLite prefers an index on such a column to the unique index of a list of ids.
    """
    return column + literal_column("0")


_DIALECTS = {name: Dialect(name) for name in ("sqlite", "postgresql")}


def constant(value: str) -> ColumnElement[Any]:
    """Return a literal in the SQL text instead of a parameter, so that partial indexes can be used."""
    assert value.isalpha(), value
    return literal_column(f"'{value}'", String())


class Statement:
    """One statement. ``build`` receives the ``Dialect`` and returns the SQLAlchemy statement.

    Parameters have the names of its ``bindparam``; parameters of ``Dialect.among`` are lists.
    """

    def __init__(self, build: Callable[[Dialect], Executable], columns: Sequence[str] | None = None):
        self._build = build
        self._columns = columns
        self._compiled: dict[str, _Compiled] = {}

    def rows(self, connection: Connection, **values: Any) -> list[tuple[Any, ...]]:
        """Execute the statement; return all rows as tuples."""
        found: list[tuple[Any, ...]] = self._run(connection, values).fetchall()
        return found

    def first(self, connection: Connection, **values: Any) -> tuple[Any, ...] | None:
        """Execute the statement; return the first row, or None."""
        found = self.rows(connection, **values)
        return found[0] if found else None

    def value(self, connection: Connection, **values: Any) -> Any:
        """Execute the statement; return the first column of the first row, or None."""
        row = self.first(connection, **values)
        return None if row is None else row[0]

    def run(self, connection: Connection, **values: Any) -> None:
        """Execute the statement, on PostgreSQL before the transaction next needs a result or commits."""
        compiled = self._for(connection)
        if compiled.order is None:
            _notify_observers(compiled.sql, 1)
            pipeline.post(connection, [(compiled.sql, compiled.parameters(values))])
        else:
            self._run(connection, values)

    def each(self, connection: Connection, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Execute the statement for every row; ``names``: the parameters, in the order of a row's values.

        On PostgreSQL this happens as with ``run``, and in one statement if there are many rows.
        """
        if not rows:
            return
        compiled = self._for(connection)
        _notify_observers(compiled.sql, len(rows))
        if compiled.order is None:
            pipeline.post(connection, compiled.calls(names, rows))
            return
        cursor = _driver(connection).cursor()
        values = compiled.arrange(names, rows)
        try:
            cursor.executemany(compiled.sql, values)
        except Exception as error:
            raise_translated(error)
        cursor.close()

    def _run(self, connection: Connection, values: Mapping[str, Any]) -> Any:
        compiled = self._for(connection)
        _notify_observers(compiled.sql, 1)
        parameters = compiled.parameters(values)
        if compiled.order is None:
            return pipeline.fetch(connection, [(compiled.sql, parameters)])[0]
        try:
            return _driver(connection).execute(compiled.sql, parameters)
        except Exception as error:
            raise_translated(error)

    def _for(self, connection: Connection) -> _Compiled:
        name = connection.dialect.name
        compiled = self._compiled.get(name)
        if compiled is None:
            statement = self._build(_DIALECTS[name])
            compiled = self._compiled[name] = _Compiled(connection, statement, self._columns, _DIALECTS[name])
        return compiled


def _driver(connection: Connection) -> Any:
    """Return the database driver's connection; it shares SQLAlchemy's transaction."""
    return connection.connection.driver_connection


#: Called with the SQL and the number of parameter rows of every statement; for tests and profiling.
Observer = Callable[[str, int], None]
_observers: list[Observer] = []


@contextmanager
def observed(observer: Observer) -> Iterator[None]:
    """Call ``observer`` for every ``Statement`` executed during the block, in any thread."""
    _observers.append(observer)
    try:
        yield
    finally:
        _observers.remove(observer)


def _notify_observers(sql: str, rows: int) -> None:
    for observer in _observers:
        observer(sql, rows)


class _Compiled:
    """The SQL of a statement for one database, and the order of its parameters."""

    def __init__(
        self, connection: Connection, statement: Any, columns: Sequence[str] | None, dialect: Dialect
    ):
        compiled: SQLCompiler = statement.compile(
            dialect=connection.dialect,
            column_keys=list(columns) if columns else None,
        )
        self.sql = str(compiled)
        self.order: Sequence[str] | None = compiled.positiontup
        self.constants = dict(compiled.params)
        self.bulk = None if dialect.name == "sqlite" else BulkStatement.of(compiled)
        self._dialect = dialect

    def parameters(self, values: Mapping[str, Any]) -> Any:
        full = dict(self.constants)
        for name, value in values.items():
            full[name] = self._dialect.many(value) if isinstance(value, list) else value
        return full if self.order is None else tuple([full[name] for name in self.order])

    def arrange(self, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[tuple[Any, ...]]:
        """Return the parameters of each row, for SQLite."""
        if self.order is None or list(names) != list(self.order):
            raise AssertionError(f"rows must have the order {self.order}, not {names}")
        return [tuple(row) for row in rows]

    def calls(self, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[pipeline.Call]:
        """Return the statements for these rows, for PostgreSQL."""
        if self.bulk is not None and len(rows) >= MIN_ROWS:
            return [self.bulk.prepare(self.constants, names, rows)]
        return [(self.sql, {**self.constants, **dict(zip(names, row))}) for row in rows]


def together(
    connection: Connection, *asked: tuple[Statement, Mapping[str, Any]]
) -> list[list[tuple[Any, ...]]]:
    """Execute statements that do not depend on each other; return the rows of each. One round trip."""
    if connection.dialect.name == "sqlite":
        return [statement.rows(connection, **values) for statement, values in asked]
    calls = []
    for statement, values in asked:
        compiled = statement._for(connection)
        _notify_observers(compiled.sql, 1)
        calls.append((compiled.sql, compiled.parameters(values)))
    return [cursor.fetchall() for cursor in pipeline.fetch(connection, calls)]


def maker(kind: type[T]) -> Callable[[tuple[Any, ...]], T]:
    """Return a function that makes a named tuple from a row; it costs a third of the class's ``_make``."""
    return partial(tuple.__new__, kind)  # type: ignore[type-var]


def insert_into(table: Table, *columns: str) -> Statement:
    """Return an INSERT of these columns, for use with ``each``."""
    # without inline(), SQLAlchemy asks PostgreSQL to return the numbers of the new rows
    return Statement(lambda _: insert(table).inline(), columns)


def insert_returning(table: Table, *columns: str) -> Statement:
    """Return an INSERT of these columns; its ``value`` is the number of the new row."""
    return Statement(lambda _: insert(table).returning(table.c.no), columns)
