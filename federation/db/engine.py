"""The database under the registry and the ledger: SQLite by default, PostgreSQL by URL."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from sqlalchemy import Connection, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import IntegrityError

from umbel.protocol.errors import UmbelError

log = logging.getLogger(__name__)

T = TypeVar("T")

#: The newest revision in ``migrations``. Revisions are numbered, so that their order is that of the text.
SCHEMA = "0009"
#: Advisory lock of PostgreSQL that one changer of the schema holds (any number will do).
SCHEMA_LOCK = 7_566_268_765
#: How long a SQLite writer waits for another process's transaction, milliseconds.
BUSY_MILLIS = 20_000
#: How often a transaction is tried when others make the same row.
SETTLE_TRIES = 4


class SchemaError(UmbelError):
    """The database's tables are not ones that this release can use."""


class Database:
    """Opens transactions on one database.

    ``write()`` is for transactions that change something, ``read()`` for those that do not. Both commit at
    the end of the block and roll back when it raises. On SQLite a write takes the write lock at its start
    (``BEGIN IMMEDIATE``), so what it reads cannot change under it.
    """

    def __init__(self, url: str, *, pool_size: int = 64):
        self.url = make_url(url)
        if self.url.drivername in ("postgresql", "postgres"):
            self.url = self.url.set(drivername="postgresql+psycopg")
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
        self._reader = self.engine
        if self.sqlite:
            event.listen(self.engine, "connect", _prepare_sqlite)
        else:
            # else each statement would see a moment of its own, and a poll could miss what ended between two
            self._reader = self.engine.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )
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

    def settle(self, act: Callable[[Connection], T]) -> T:
        """Return what ``act`` returns, called in a transaction that may change rows.

        Where another process has made the same row at the same moment, ``act`` is called again, and finds it:
        so it looks first, then makes what is missing.
        """
        for _ in range(SETTLE_TRIES - 1):
            try:
                with self.write() as connection:
                    return act(connection)
            except IntegrityError as error:
                log.debug("another process was quicker, looking again: %s", error)
        with self.write() as connection:
            return act(connection)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one moment of the database and changes nothing."""
        with self._reader.connect() as connection:
            if self.sqlite:
                yield from _sqlite_transaction(connection, "BEGIN")
            else:
                with connection.begin():
                    yield connection

    def create(self) -> None:
        """Bring the database to the present schema; costs a look where it has it.

        Any number of processes may do so at once. Raises SchemaError when the database is newer than this
        code.
        """
        if self.schema() == SCHEMA:
            return
        # Alembic takes a while to import, which a process pays only when there is something to do
        from . import migrate

        with self._schema_change() as connection:
            found = _version(connection)
            if found is not None and found > SCHEMA:
                raise SchemaError(
                    f"the database has schema {found}, this release of Umbel knows up to {SCHEMA}: "
                    "run a newer release, or restore the backup from before the upgrade"
                )
            migrate.upgrade(connection)

    def schema(self) -> str | None:
        """The database's revision; None for an empty one."""
        with self.read() as connection:
            return _version(connection)

    @contextmanager
    def _schema_change(self) -> Iterator[Connection]:
        """A transaction that is the only one of its kind, for changes of tables."""
        if not self.sqlite:
            with self.write() as connection:
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": SCHEMA_LOCK})
                yield connection
            return
        with self._writer, self.engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            # a table that is made anew is dropped first; only outside a transaction can the checks be put off
            driver.execute("PRAGMA foreign_keys = OFF")
            try:
                with contextmanager(_sqlite_transaction)(connection, "BEGIN IMMEDIATE"):
                    yield connection
                    broken = driver.execute("PRAGMA foreign_key_check").fetchall()
                    if broken:
                        raise SchemaError(f"a migration broke references, nothing was changed: {broken[:5]}")
            finally:
                driver.execute("PRAGMA foreign_keys = ON")

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def _version(connection: Connection) -> str | None:
    """The revision that Alembic has noted, if any."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return found


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


def _use_wal(driver: Any) -> None:
    """Switch to write-ahead logging; unlike other statements that does not wait for others by itself."""
    deadline = time.monotonic() + BUSY_MILLIS / 1000
    while True:
        try:
            driver.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _prepare_sqlite(driver: Any, _record: Any) -> None:
    driver.execute(f"PRAGMA busy_timeout = {BUSY_MILLIS}")
    _use_wal(driver)
    driver.execute("PRAGMA synchronous = FULL")
    driver.execute("PRAGMA foreign_keys = ON")
    driver.execute("PRAGMA cache_size = -65536")
