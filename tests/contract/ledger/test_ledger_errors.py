"""A database that fails, in every kind of transaction: the error says what to do, and nothing is lost."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

import pytest
from sqlalchemy import bindparam, insert, select, text
from sqlalchemy.exc import DBAPIError

from federation.db.engine import Database
from federation.db.errors import (
    RETRYABLE,
    DatabaseConflict,
    DatabaseFull,
    DatabaseRefused,
    DatabaseUnavailable,
)
from federation.db.statements import Statement
from federation.db.tables import users
from federation.ledger.cancel import cancel_group
from tests.support import database_faults
from tests.support.endpoint import FakeNode
from tests.support.ledger import Ledger
from tests.support.postgres import Server

#: Larger than what fits into the free space of a page.
LARGE = 100_000

Act = Callable[[], object]


@pytest.fixture
def server_settings() -> dict[str, float]:
    return {"busy_timeout": 0.1}


class Transactions:
    """Every kind of transaction: ``prepare`` what it needs, then ``act``, and ``finish`` what is open."""

    def __init__(self, ledger: Ledger, node: FakeNode):
        self.ledger, self.node, self.lab = ledger, node, node.endpoint
        self.groups: list[str] = []
        self._keys = 0

    def _submit(self, size: int = 1) -> None:
        answer = self.ledger.submit(self.lab, [b"x" * size] * 3, key=f"key-{self._keys}")
        self.groups.append(answer["group_id"])

    def accept(self) -> Act:
        self._keys += 1
        return lambda: self._submit(LARGE)

    def apply(self) -> Act:
        self.accept()()
        self.node.take()
        self.node.finish()
        return self.ledger.collect

    def sweep(self) -> Act:
        self.accept()()
        self.node.take()
        self.node.restart()
        self.ledger.collect()
        self.accept()()
        self.node.take()
        self.node.held.clear()
        self.ledger.clock.forward(30)
        self.node.beat()
        self.ledger.collect()
        return self.ledger.sweeper.sweep

    def poll(self) -> Act:
        self.apply()()
        return lambda: self.ledger.results(self.groups[-1])

    def cancel(self) -> Act:
        self.accept()()
        return lambda: cancel_group(self.ledger.fed, self.ledger.me, self.groups[-1])

    def finish(self) -> None:
        """Run all work to its end; every accepted task must have exactly one end."""
        for _ in range(20):
            self.node.take()
            self.node.finish()
            self.node.beat()
            self.ledger.collect()
            self.ledger.sweep(after=15)
        for group in self.groups:
            page = self.ledger.results(group)
            assert page["live"] == 0 and [each["completion"] for each in page["results"]] == [1, 2, 3]
        self.ledger.check()


KINDS = ("accept", "apply", "sweep", "poll", "cancel")


@pytest.fixture
def transactions(ledger: Ledger, node: FakeNode) -> Transactions:
    return Transactions(ledger, node)


@pytest.fixture
def sqlite(postgresql: Server | None) -> None:
    if postgresql is not None:
        pytest.skip("needs SQLite")


def _fails_or_waits(act: Act, caplog: pytest.LogCaptureFixture, kinds: tuple[type[Exception], ...]) -> bool:
    """Return whether the act failed; with anything but ``kinds`` the test fails."""
    caplog.clear()
    failed = False
    try:
        act()
    except kinds:
        failed = True
    assert "unexpected error" not in caplog.text and "dropped" not in caplog.text, caplog.text
    return failed


@pytest.mark.parametrize("kind", KINDS)
def test_connections_are_cut_before_any_statement(
    server: Server,
    database: Database,
    transactions: Transactions,
    kind: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert database.url.database

    def strike() -> None:
        database_faults.cut_connections(server, str(database.url.database))

    number, failures = 0, 0
    while True:
        act = getattr(transactions, kind)()
        with database_faults.at_statement(database, number, strike) as struck:
            failures += _fails_or_waits(act, caplog, (DatabaseUnavailable,))
        if not struck:
            break
        act()
        number += 1
    # the look after the end of a transaction (dispatch.catch_up) fails without failing what was done
    looks = 1 if kind in ("accept", "apply", "cancel") else 0
    assert number >= 2 and (failures == number - looks or kind == "sweep")
    transactions.finish()


@pytest.mark.parametrize("kind", KINDS)
def test_the_database_is_read_only(
    server: Server,
    database: Database,
    transactions: Transactions,
    kind: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    act = getattr(transactions, kind)()
    with database_faults.read_only(server, database):
        failed = _fails_or_waits(act, caplog, (DatabaseUnavailable,))
    assert failed == (kind not in ("poll", "sweep"))
    act()
    transactions.finish()


@pytest.mark.usefixtures("sqlite")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("fault", "error"),
    [(database_faults.locked, DatabaseUnavailable), (database_faults.full, DatabaseFull)],
    ids=["locked", "full"],
)
def test_the_database_cannot_be_written(
    database: Database,
    transactions: Transactions,
    kind: str,
    fault: Callable[[Database], AbstractContextManager[None]],
    error: type[Exception],
    caplog: pytest.LogCaptureFixture,
) -> None:
    act = getattr(transactions, kind)()
    with fault(database):
        failed = _fails_or_waits(act, caplog, (error,))
    if fault is database_faults.locked:
        assert failed == (kind not in ("poll", "sweep"))
    else:
        assert failed or kind != "accept"
    act()
    transactions.finish()


@pytest.mark.usefixtures("sqlite")
def test_a_failing_rollback_does_not_replace_its_cause(database: Database) -> None:
    """SQLite has already rolled back when the disk is full."""
    with pytest.raises(RuntimeError, match="cause"), database.write() as connection:
        connection.connection.driver_connection.execute("ROLLBACK")  # type: ignore[union-attr]
        raise RuntimeError("cause")
    with pytest.raises(RuntimeError, match="cause"), database.write() as connection:
        connection.connection.driver_connection.close()  # type: ignore[union-attr]
        raise RuntimeError("cause")
    with database.write() as connection:
        connection.execute(select(users.c.no))


@pytest.mark.usefixtures("sqlite")
def test_threads_wait_for_a_writer_of_their_process_for_a_limited_time(database: Database) -> None:
    def write() -> None:
        with database.write():
            pass

    with ThreadPoolExecutor(1) as pool, database.write():
        with pytest.raises(DatabaseUnavailable):
            pool.submit(write).result(10)


_exactly = Statement(lambda d: select(users.c.no).where(users.c.no == bindparam("no")))
_named = Statement(lambda d: select(users.c.no).where(users.c.name == bindparam("name")))


@pytest.mark.parametrize("core", [True, False], ids=["core", "statement"])
@pytest.mark.parametrize("value", [2**70, -(2**64)])
def test_an_integer_that_is_too_large_is_refused(database: Database, value: int, core: bool) -> None:
    with pytest.raises(DatabaseRefused), database.write() as connection:
        if core:
            connection.execute(select(users.c.no).where(users.c.no == value))
        else:
            _exactly.rows(connection, no=value)


@pytest.mark.parametrize("core", [True, False], ids=["core", "statement"])
def test_text_that_is_not_unicode_is_refused(database: Database, core: bool) -> None:
    with pytest.raises(DatabaseRefused), database.write() as connection:
        if core:
            connection.execute(select(users.c.no).where(users.c.name == "\ud800"))
        else:
            _named.rows(connection, name="\ud800")


def test_nul_is_refused_or_stored(database: Database) -> None:
    try:
        with database.write() as connection:
            connection.execute(insert(users).values(id="nul", name="a\0b", created=0.0))
    except DatabaseRefused:
        assert not database.sqlite


def test_a_duplicate_is_a_conflict(database: Database) -> None:
    with pytest.raises(DatabaseConflict), database.write() as connection:
        connection.execute(insert(users).values(id="x", name="ada", created=0.0))


def test_a_missing_table_may_return(database: Database) -> None:
    """While a backup is restored, tables are missing: no report is dropped because of that."""
    with pytest.raises(DatabaseUnavailable), database.read() as connection:
        connection.execute(text("SELECT * FROM no_such_table"))


def test_a_bug_is_not_hidden(database: Database) -> None:
    with pytest.raises(DBAPIError), database.read() as connection:
        connection.execute(text("SELEC 1"))
    with pytest.raises(ZeroDivisionError), database.write():
        raise ZeroDivisionError
    assert not issubclass(DatabaseRefused, RETRYABLE)


def test_a_database_without_free_connections_is_unavailable(database: Database) -> None:
    small = Database(str(database.url.render_as_string(False)), pool_size=1)
    small.engine.pool._max_overflow = 0  # type: ignore[attr-defined]
    small.engine.pool._timeout = 0.05  # type: ignore[attr-defined]
    with small.read(), pytest.raises(DatabaseUnavailable), small.read():
        pass
    small.close()


def test_a_database_that_cannot_be_reached_is_unavailable() -> None:
    for url in ("sqlite:////no/such/directory/file", "postgresql://x@127.0.0.1:1/x"):
        database = Database(url)
        with pytest.raises(DatabaseUnavailable), database.read():
            pass
        with pytest.raises(DatabaseUnavailable):
            database.create()
        database.close()
