"""The database under the registry and the ledger: SQLite by default, PostgreSQL by URL."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, create_engine, event, make_url

from .tables import metadata

#: How long a SQLite writer waits for another process's transaction, milliseconds.
BUSY_MILLIS = 20_000


class Database:
    """Opens transactions on one database.

    ``write()`` is for transactions that change something, ``read()`` for those that do not. Both commit at
    the end of the block and roll back when it raises. On SQLite a write takes the write lock at its start
    (``BEGIN IMMEDIATE``), so what it reads cannot change under it.
    """

    def __init__(self, url: str, *, pool_size: int = 64):
        self.url = make_url(url)
        self.sqlite = self.url.get_backend_name() == "sqlite"
        options: dict[str, Any] = {
            "pool_size": pool_size,
            "max_overflow": 64,
            "pool_pre_ping": not self.sqlite,
        }
        if self.sqlite:
            # the driver's own transaction handling would begin too late; we say BEGIN ourselves
            options["connect_args"] = {"isolation_level": None, "check_same_thread": False}
        self.engine = create_engine(self.url, **options)
        if self.sqlite:
            event.listen(self.engine, "connect", _prepare_sqlite)
        # SQLite's own waiting naps and is unfair; threads of one process queue here instead
        self._writer = threading.RLock()

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that may change rows."""
        if not self.sqlite:
            with self.engine.begin() as connection:
                yield connection
            return
        with self._writer, self.engine.connect() as connection:
            yield from _sqlite_transaction(connection, "BEGIN IMMEDIATE")

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one moment of the database and changes nothing."""
        with self.engine.connect() as connection:
            if self.sqlite:
                yield from _sqlite_transaction(connection, "BEGIN")
            else:
                with connection.begin():
                    yield connection

    def create(self) -> None:
        """Bring an empty database to the present schema; does nothing to one that has it."""
        metadata.create_all(self.engine)

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def _sqlite_transaction(connection: Connection, begin: str) -> Iterator[Connection]:
    driver = connection.connection.driver_connection
    assert driver is not None
    driver.execute(begin)
    try:
        yield connection
    except BaseException:
        driver.execute("ROLLBACK")
        raise
    driver.execute("COMMIT")


def _prepare_sqlite(driver: Any, _record: Any) -> None:
    driver.execute("PRAGMA journal_mode = WAL")
    driver.execute("PRAGMA synchronous = FULL")
    driver.execute("PRAGMA foreign_keys = ON")
    driver.execute(f"PRAGMA busy_timeout = {BUSY_MILLIS}")
    driver.execute("PRAGMA cache_size = -65536")
