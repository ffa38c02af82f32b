"""Databases that fail in the middle of a transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event

from federation.db import statements
from federation.db.engine import Database
from tests.support.postgres import Server


@contextmanager
def at_statement(database: Database, number: int, strike: Callable[[], None]) -> Iterator[list[int]]:
    """Call ``strike`` right before the given statement (the first is 0); yields a list, empty until then."""
    struck: list[int] = []
    count = 0

    def next_statement(*_: Any) -> None:
        nonlocal count
        if count == number and not struck:
            struck.append(number)
            strike()
        count += 1

    event.listen(database.engine, "before_cursor_execute", next_statement)
    try:
        with statements.observed(next_statement):
            yield struck
    finally:
        event.remove(database.engine, "before_cursor_execute", next_statement)


def cut_connections(server: Server, database: str) -> None:
    """End all sessions of a PostgreSQL database, as an administrator or a restart does."""
    with server.connect() as connection:
        query = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s"
        connection.execute(query, [database])


@contextmanager
def read_only(server: Server, database: Database) -> Iterator[None]:
    """Make a PostgreSQL database read-only, as a failover does."""
    _set_read_only(server, database, "on")
    try:
        yield
    finally:
        _set_read_only(server, database, "off")


def _set_read_only(server: Server, database: Database, value: str) -> None:
    statement = f"ALTER DATABASE {database.url.database} SET default_transaction_read_only = {value}"
    with server.connect() as connection:
        connection.execute(statement.encode())
    database.engine.dispose()  # the setting applies to new sessions


@contextmanager
def locked(database: Database) -> Iterator[None]:
    """Hold the write lock of a SQLite database on another connection."""
    assert database.url.database
    other = sqlite3.connect(database.url.database, isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        yield
    finally:
        other.close()


@contextmanager
def full(database: Database) -> Iterator[None]:
    """Let a SQLite database grow no further, as on a full disk."""

    def limit(driver: Any, *_: Any) -> None:
        driver.execute("PRAGMA max_page_count = 1")  # SQLite uses the present size if that is larger

    event.listen(database.engine, "connect", limit)
    database.engine.dispose()
    try:
        yield
    finally:
        event.remove(database.engine, "connect", limit)
        database.engine.dispose()
