"""What the ledger requires of a database."""

from __future__ import annotations

import pytest
from sqlalchemy import Connection, func, insert, select

from federation.db.engine import MAX_WRITE_ATTEMPTS
from federation.db.errors import DatabaseConflict
from federation.db.tables import users
from tests.support.ledger import Ledger

_count = select(func.count()).select_from(users)


def _add(connection: Connection, name: str) -> None:
    connection.execute(insert(users).values(id=name, name=name, created=0.0))


def test_a_read_sees_one_moment(ledger: Ledger) -> None:
    """A poll that reads twice must not miss tasks that end in between."""
    database = ledger.fed.database
    with database.read() as reading:
        before = reading.execute(_count).scalar_one()
        with database.write() as writing:
            _add(writing, "late")
        assert reading.execute(_count).scalar_one() == before
    with database.read() as reading:
        assert reading.execute(_count).scalar_one() == before + 1


def test_a_write_that_fails_changes_nothing(ledger: Ledger) -> None:
    database = ledger.fed.database
    with pytest.raises(RuntimeError), database.write() as connection:
        _add(connection, "half")
        raise RuntimeError("the power went off")
    with database.read() as connection:
        assert connection.execute(select(users.c.no).where(users.c.name == "half")).first() is None


def test_what_others_have_made_is_looked_for_again(ledger: Ledger) -> None:
    database = ledger.fed.database
    looks = 0

    def find_or_make(connection: Connection) -> str:
        nonlocal looks
        looks += 1
        if looks == 1:
            _add(connection, "ada")  # simulates another process that inserts the row first
        return "found"

    assert database.retry_write(find_or_make) == "found"
    assert looks == 2


def test_what_never_fits_is_not_tried_for_ever(ledger: Ledger) -> None:
    tries = []

    def wrong(connection: Connection) -> None:
        tries.append(1)
        _add(connection, "ada")

    with pytest.raises(DatabaseConflict):
        ledger.fed.database.retry_write(wrong)
    assert len(tries) == MAX_WRITE_ATTEMPTS
