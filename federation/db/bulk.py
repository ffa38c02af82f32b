"""PostgreSQL statements for many rows at once: parameters become arrays, which the server unnests.

Executing a statement once per row costs a message, a plan lookup and an executor start for each. One
statement with an array per column costs a tenth of that. Columns with one value in all rows are sent once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.types import LargeBinary, String

#: Rows from which one statement is faster than a pipeline of statements.
MIN_ROWS = 8

_PARAMETER = re.compile(r"%\((\w+)\)s(?:::\w+)?")
_INSERT = re.compile(r"(INSERT INTO \w+ \([^)]*\)) VALUES \((.*)\)$", re.DOTALL)
_UPDATE = re.compile(r"(UPDATE (\w+) SET .*?) WHERE (\2\.no = %\((\w+)\)s::BIGINT.*)$", re.DOTALL)


def array(values: Sequence[Any]) -> str:
    """Return an array of numbers or strings in PostgreSQL's text format; the driver's own is slower."""
    if any(isinstance(value, str) for value in values):
        return "{" + ",".join(map(_quoted, values)) + "}"
    if None in values:
        return "{" + ",".join(["NULL" if value is None else repr(value) for value in values]) + "}"
    return "{" + ",".join(map(repr, values)) + "}"


def _quoted(value: str | None) -> str:
    if value is None:
        return "NULL"
    if "\\" in value or '"' in value:
        value = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{value}"'


class BulkStatement:
    """The forms for many rows of one INSERT, or of one UPDATE of the row with a given ``no``."""

    def __init__(self, sql: str, kinds: Mapping[str, str], build: Callable[[str, str], str], key: str | None):
        self._sql = sql
        self._kinds = kinds
        self._build = build
        self._key = key
        self._forms: dict[tuple[str, ...], str] = {}

    @classmethod
    def of(cls, compiled: SQLCompiler) -> BulkStatement | None:
        """Return the bulk forms of a statement; None if it has none."""
        sql = str(compiled)
        insert, update = _INSERT.match(sql), _UPDATE.match(sql)
        types = {name: bind.type for name, bind in compiled.binds.items()}
        if not (insert or update) or any(isinstance(kind, LargeBinary) for kind in types.values()):
            return None
        kinds = {
            name: "VARCHAR" if isinstance(kind, String) else kind.compile(dialect=compiled.dialect)
            for name, kind in types.items()
        }
        if insert:
            head, values = insert.groups()
            return cls(values, kinds, lambda changed, rows: f"{head} SELECT {changed} FROM {rows}", None)
        if update:
            head, table, where, key = update.groups()
            # the condition makes the planner look the rows up by number, whatever it expects of the arrays
            by_no = f"{table}.no = ANY(%({key})s::BIGINT[])"
            between = "\0"
            return cls(
                head + between + where,
                kinds,
                lambda changed, rows: changed.replace(between, f" FROM {rows} WHERE {by_no} AND "),
                key,
            )
        return None

    def prepare(
        self, constants: Mapping[str, Any], names: Sequence[str], rows: Sequence[Sequence[Any]]
    ) -> tuple[str, dict[str, Any]]:
        """Return the SQL for these rows and its parameters."""
        parameters = dict(constants)
        varying = []
        for name, values in zip(names, zip(*rows)):
            if name != self._key and values.count(values[0]) == len(values):
                parameters[name] = values[0]
            else:
                parameters[name] = array(values)
                varying.append(name)
        if not varying:  # equal rows
            varying.append(names[0])
            parameters[names[0]] = array([row[0] for row in rows])
        key = tuple(varying)
        form = self._forms.get(key)
        if form is None:
            form = self._forms[key] = self._form(key)
        return form, parameters

    def _form(self, varying: Sequence[str]) -> str:
        def replaced(found: re.Match[str]) -> str:
            name = found[1]
            return f'each_row."{name}"' if name in varying else f"%({name})s::{self._kinds[name]}"

        arrays = ", ".join(f"%({name})s::{self._kinds[name]}[]" for name in varying)
        columns = ", ".join(f'"{name}"' for name in varying)
        rows = f"unnest({arrays}) AS each_row({columns})"
        return self._build(_PARAMETER.sub(replaced, self._sql), rows)
