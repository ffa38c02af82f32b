"""Statements on a PostgreSQL connection with few round trips: those without a result wait for the next one.

A statement whose result nothing depends on is kept until the transaction needs a result or commits; then all
of them are sent together (pipeline mode), with BEGIN and COMMIT. Its errors are raised there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Engine, event

from .errors import raise_translated

#: A statement and its parameters.
Call = tuple[str, Any]

_KEY = "umbel.pending"


def enable(engine: Engine) -> None:
    """Send what is kept before any statement that SQLAlchemy executes itself."""
    event.listen(engine, "before_cursor_execute", lambda connection, *_: flush(connection))


def post(connection: Connection, calls: Sequence[Call]) -> None:
    """Execute statements some time before the end of the transaction, in order."""
    connection.info.setdefault(_KEY, []).extend(calls)


def fetch(connection: Connection, calls: Sequence[Call]) -> list[Any]:
    """Execute what is kept, then statements; return a cursor of each."""
    driver: Any = connection.connection.driver_connection
    pending = _taken(connection)
    try:
        if not pending and len(calls) == 1 and driver.pgconn.transaction_status:
            return [driver.execute(*calls[0], binary=True)]
        with driver.pipeline():
            for call in pending:
                driver.execute(*call)
            return [driver.execute(*call, binary=True) for call in calls]
    except Exception as error:
        raise_translated(error)


def flush(connection: Connection) -> None:
    """Execute what is kept."""
    if connection.info.get(_KEY):
        fetch(connection, [])


def commit(connection: Connection) -> None:
    """Execute what is kept, and commit. SQLAlchemy's own commit then does nothing."""
    if connection.info.get(_KEY):
        fetch(connection, [("COMMIT", None)])


def forget(connection: Connection) -> None:
    """Drop what is kept, when the transaction is rolled back."""
    _taken(connection)


def _taken(connection: Connection) -> list[Call]:
    pending: list[Call] = connection.info.pop(_KEY, [])
    return pending
