"""The database of the registry and the ledger: SQLite by default, PostgreSQL by URL."""

from __future__ import annotations

import logging
import select
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from sqlalchemy import Connection, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import DisconnectionError

from umbel.protocol.errors import UmbelError

from . import pipeline
from .errors import DatabaseConflict, DatabaseDeadlock, DatabaseUnavailable, translated
from .transactions import begun, transaction, translate_errors
from .turnstile import Turnstile

log = logging.getLogger(__name__)

T = TypeVar("T")

#: The newest revision in ``migrations``. Revisions are numbered: they sort as strings.
SCHEMA = "0020"
#: PostgreSQL advisory lock of the process that changes the schema (an arbitrary number).
SCHEMA_LOCK = 7_566_268_765
#: Maximum wait of a SQLite writer for another transaction, seconds.
BUSY_TIMEOUT = 20.0
#: Maximum of SQLite's ``busy_timeout``, milliseconds, a 32 bit integer.
MAX_BUSY_MILLIS = 2**31 - 1
#: Maximum attempts of a transaction when other processes insert the same row.
MAX_WRITE_ATTEMPTS = 4
#: Executions of a statement on a connection after which PostgreSQL keeps it prepared.
PREPARE_AFTER = 2
#: Options of libpq. The first ones end the wait for a PostgreSQL server that does not respond, after half a
#: minute. The last one is for plans: all frequent statements use indexes, and a plan that was made and kept
#: while a table was empty must use them, too; compiling plans takes longer than these run.
POSTGRESQL_OPTIONS = {
    "connect_timeout": "10",
    "keepalives_idle": "15",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
    "options": "-c enable_seqscan=off -c jit=off",
}


class SchemaError(UmbelError):
    """The database schema is not compatible with this release."""


class Database:
    """Opens transactions on one database.

    ``write()`` is for transactions that change rows, ``read()`` for all others. Both commit at the end of the
    block and roll back if it raises. On SQLite a write takes the write lock at its start
    (``BEGIN IMMEDIATE``), so the rows it reads cannot change before it commits.
    """

    def __init__(self, url: str, *, pool_size: int = 64, busy_timeout: float = BUSY_TIMEOUT):
        self.url = make_url(url)
        if self.url.drivername in ("postgresql", "postgres"):
            self.url = self.url.set(drivername="postgresql+psycopg")
        self.sqlite = self.url.get_backend_name() == "sqlite"
        self.busy_timeout = min(busy_timeout, threading.TIMEOUT_MAX)
        options: dict[str, Any] = {"pool_size": pool_size, "max_overflow": 64}
        if self.sqlite:
            # the driver would begin transactions too late; BEGIN is executed explicitly instead
            options["connect_args"] = {"isolation_level": None, "check_same_thread": False}
        else:
            options["connect_args"] = {
                key: value for key, value in POSTGRESQL_OPTIONS.items() if key not in self.url.query
            }
            options["connect_args"]["prepare_threshold"] = PREPARE_AFTER
        self.engine = create_engine(self.url, **options)
        translate_errors(self.engine)
        self._reader = self.engine
        if self.sqlite:
            event.listen(self.engine, "connect", self._prepare_sqlite)
        else:
            pipeline.enable(self.engine)
            event.listen(self.engine, "checkout", _prepare_postgresql)
            # otherwise each statement sees its own snapshot, and a poll misses tasks that end in between
            self._reader = self.engine.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )
        # SQLite waits by sleeping, without a queue; threads of one process wait for this lock instead, and
        # processes for their turn
        self._writer = threading.RLock()
        self._turnstile = Turnstile(str(self.url.database), self.busy_timeout) if self.sqlite else None

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Open a transaction that may change rows. Raises the errors of ``db.errors``."""
        with self._writing(), transaction(self.engine, "BEGIN IMMEDIATE") as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Wait until it is the turn of this thread to write, if the database is SQLite."""
        if self._turnstile is None:
            yield
            return
        if not self._writer.acquire(timeout=self.busy_timeout):
            raise DatabaseUnavailable("the database is busy with other transactions of this process")
        try:
            with self._turnstile.turn():
                yield
        finally:
            self._writer.release()

    def retry_write(self, act: Callable[[Connection], T]) -> T:
        """Call ``act`` in a transaction that may change rows; return its result.

        If another process inserts the same row at the same time, ``act`` is called again and finds that row.
        So ``act`` must look for the row first and insert it only if it is missing. ``act`` is also called
        again if its transaction was rolled back because of a deadlock.
        """
        for _ in range(MAX_WRITE_ATTEMPTS - 1):
            try:
                with self.write() as connection:
                    return act(connection)
            except (DatabaseConflict, DatabaseDeadlock) as error:
                log.debug("conflict with another transaction; retrying: %s", error)
        with self.write() as connection:
            return act(connection)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a read-only transaction on one snapshot. Raises the errors of ``db.errors``."""
        with transaction(self._reader, "BEGIN") as connection:
            yield connection

    def create(self) -> None:
        """Create or upgrade the schema; only one query if it is up to date.

        Any number of processes may call this at the same time. Raises SchemaError if the database is newer
        than this release.
        """
        if self.schema() == SCHEMA:
            return
        # importing Alembic is slow, so it happens only if there is something to do
        from . import migrate

        with self._schema_change() as connection:
            found = _version(connection)
            if found is not None and found > SCHEMA:
                raise SchemaError(
                    f"the database has schema version {found}, but this release of Umbel supports versions "
                    f"up to {SCHEMA}: run a newer release, or restore the backup from before the upgrade"
                )
            migrate.upgrade(connection)

    def schema(self) -> str | None:
        """Return the database's schema revision; None if it is empty."""
        with self.read() as connection:
            return _version(connection)

    @contextmanager
    def _schema_change(self) -> Iterator[Connection]:
        """Open an exclusive transaction for schema changes."""
        if not self.sqlite:
            with self.write() as connection:
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": SCHEMA_LOCK})
                yield connection
            return
        with self._writing(), translated, self.engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            # recreating a table drops it first; foreign keys can be disabled only outside a transaction
            driver.execute("PRAGMA foreign_keys = OFF")
            try:
                with begun(connection, "BEGIN IMMEDIATE"):
                    yield connection
                    broken = driver.execute("PRAGMA foreign_key_check").fetchall()
                    if broken:
                        raise SchemaError(
                            f"a migration broke foreign keys; the database is unchanged: {broken[:5]}"
                        )
            finally:
                driver.execute("PRAGMA foreign_keys = ON")

    def _prepare_sqlite(self, driver: Any, _record: Any) -> None:
        driver.execute(f"PRAGMA busy_timeout = {min(int(self.busy_timeout * 1000), MAX_BUSY_MILLIS)}")
        # only before the first table; see ``db.free_pages``
        driver.execute("PRAGMA auto_vacuum = INCREMENTAL")
        _use_wal(driver, self.busy_timeout)
        driver.execute("PRAGMA synchronous = FULL")
        driver.execute("PRAGMA foreign_keys = ON")
        driver.execute("PRAGMA cache_size = -65536")

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()
        # while another thread writes, its turn must not end
        if self._turnstile is not None and self._writer.acquire(blocking=False):
            self._turnstile.close()
            self._writer.release()


def _version(connection: Connection) -> str | None:
    """Return the revision that Alembic recorded, if any."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return found


def _prepare_postgresql(driver: Any, *_: Any) -> None:
    """Check a connection of the pool without a round trip: if the server has closed it, that can be read.

    Also undo what a read-only transaction leaves: SQLAlchemy then requests READ WRITE of a read-only server.
    """
    poll = select.poll()
    poll.register(driver.fileno(), select.POLLIN)
    if poll.poll(0):
        raise DisconnectionError("the server has closed the connection")
    driver.read_only = None


def _use_wal(driver: Any, timeout: float) -> None:
    """Switch to write-ahead logging; this statement ignores ``busy_timeout``, so it is retried here."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            driver.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
