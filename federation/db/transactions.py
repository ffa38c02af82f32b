"""Transactions whose errors are translated, on a connection of the pool."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import ExceptionContext

from . import pipeline
from .errors import translate_value_error, translated

log = logging.getLogger(__name__)


def translate_errors(engine: Engine) -> None:
    """Translate the errors of all statements that SQLAlchemy executes on ``engine``."""
    event.listen(engine, "handle_error", _translation)


def _translation(context: ExceptionContext) -> BaseException | None:
    return translate_value_error(context.original_exception)


@contextmanager
def transaction(engine: Engine, sqlite_begin: str) -> Iterator[Connection]:
    """Open a transaction on a connection of the pool; see ``begun``."""
    with translated, engine.connect() as connection, begun(connection, sqlite_begin):
        yield connection


@contextmanager
def begun(connection: Connection, sqlite_begin: str) -> Iterator[None]:
    """Open a transaction, commit it at the end of the block, roll it back if the block raises.

    ``sqlite_begin``: the statement that begins it on SQLite; it is ignored on PostgreSQL. Raises the errors
    of ``db.errors``, whichever statement fails. A failing ROLLBACK never replaces the error that caused it.
    """
    sqlite = connection.dialect.name == "sqlite"
    with translated:
        if sqlite:
            _driver(connection).execute(sqlite_begin)
        else:
            connection.begin()
        try:
            yield
            if sqlite:
                _driver(connection).execute("COMMIT")
            else:
                pipeline.commit(connection)
                connection.commit()
        except BaseException:
            _roll_back(connection)
            raise


def _roll_back(connection: Connection) -> None:
    """Roll back; a connection on which this fails is closed and not used again."""
    try:
        if connection.dialect.name != "sqlite":
            pipeline.forget(connection)
            connection.rollback()
        elif _driver(connection).in_transaction:  # SQLite rolls back by itself if the disk is full
            _driver(connection).execute("ROLLBACK")
    except Exception as error:
        log.debug("the connection is closed because ROLLBACK failed: %s", error)
        connection.invalidate()


def _driver(connection: Connection) -> Any:
    """Return the driver's connection, which SQLAlchemy would not begin a transaction on in time."""
    return connection.connection.driver_connection
