"""The tables created by migrations equal the tables in the code, from every starting revision."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text

from federation.db import migrate
from federation.db.engine import SCHEMA, Database, SchemaError
from federation.db.tables import metadata

ROOT = Path(__file__).resolve().parents[3]
SCRIPTS = ScriptDirectory.from_config(migrate.config())
#: (revision, the one before it), oldest first; the first one comes after "base".
STEPS = [
    (script.revision, str(script.down_revision or "base"))
    for script in reversed(list(SCRIPTS.walk_revisions()))
]


@pytest.fixture
def database(bare_database_url: str) -> Iterator[Database]:
    """An empty database."""
    opened = Database(bare_database_url)
    yield opened
    opened.close()


def _described(connection: Connection) -> dict[str, Any]:
    """The complete schema as reported by the database, in an order independent of its history."""
    look = inspect(connection)
    described: dict[str, Any] = {}
    for table in sorted(look.get_table_names()):
        if table == "alembic_version":
            continue
        columns: list[dict[str, Any]] = [
            {**column, "type": str(column["type"])} for column in look.get_columns(table)
        ]
        described[table] = {
            "columns": sorted(columns, key=lambda column: str(column["name"])),
            "primary key": look.get_pk_constraint(table),
            "foreign keys": sorted(look.get_foreign_keys(table), key=str),
            "unique": sorted(look.get_unique_constraints(table), key=str),
            "indexes": _indexes(connection, table),
        }
    return described


def _indexes(connection: Connection, table: str) -> list[str]:
    """Definitions of a table's indexes, with their conditions, as the database writes them."""
    query = (
        "SELECT sql FROM sqlite_master WHERE type = 'index' AND tbl_name = :table AND sql IS NOT NULL"
        if connection.dialect.name == "sqlite"
        else "SELECT indexdef FROM pg_indexes WHERE tablename = :table AND schemaname = current_schema()"
    )
    return sorted(
        " ".join(sql.split()) for sql in connection.execute(text(query), {"table": table}).scalars()
    )


def _at(database: Database, revision: str) -> None:
    with database.write() as connection:
        migrate.upgrade(connection, revision)


def test_the_newest_revision_is_the_one_the_code_asks_for() -> None:
    assert SCRIPTS.get_current_head() == SCHEMA == STEPS[-1][0]
    assert [revision for revision, _ in STEPS] == sorted(revision for revision, _ in STEPS)


def test_migrations_make_what_the_code_knows(database: Database) -> None:
    database.create()
    with database.read() as connection:
        missing = compare_metadata(MigrationContext.configure(connection), metadata)
        assert missing == [], "write a revision for these"
        migrated = _described(connection)
    with database.write() as connection:
        migrate.downgrade(connection, "base")
        assert _described(connection) == {}
        metadata.create_all(connection)
        direct = _described(connection)
    assert migrated == direct
    assert set(direct) == set(metadata.tables)


@pytest.mark.parametrize(("revision", "before"), STEPS)
def test_each_step_may_be_taken_forth_and_back(database: Database, revision: str, before: str) -> None:
    if before != "base":
        _at(database, before)
    with database.read() as connection:
        old = _described(connection)
    _at(database, revision)
    with database.write() as connection:
        migrate.downgrade(connection, before)
    with database.read() as connection:
        assert _described(connection) == old
    database.create()
    assert database.schema() == SCHEMA
    with database.read() as connection:
        assert set(_described(connection)) == set(metadata.tables)


def test_a_database_is_created_once_by_many(database: Database) -> None:
    gate, failures = threading.Barrier(4), []

    def create() -> None:
        own = Database(database.url.render_as_string(hide_password=False))
        gate.wait(10)
        try:
            own.create()
        except Exception as error:  # any error is reported by the test
            failures.append(error)
        finally:
            own.close()

    threads = [threading.Thread(target=create) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == [] and database.schema() == SCHEMA


def test_a_migration_that_fails_changes_nothing(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    apply = migrate.upgrade

    def fail(connection: Connection) -> None:
        apply(connection)
        raise RuntimeError("the power went off")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(migrate, "upgrade", fail)
        database.create()
    assert database.schema() is None
    with database.read() as connection:
        assert _described(connection) == {}
    database.create()
    assert database.schema() == SCHEMA


def test_a_newer_database_is_refused(database: Database) -> None:
    database.create()
    with database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SchemaError, match="9999"):
        database.create()


def test_a_database_that_is_up_to_date_costs_no_alembic(database: Database) -> None:
    database.create()
    url = database.url.render_as_string(hide_password=False)
    code = (
        "import sys; from federation.db.engine import Database; d = Database(sys.argv[1]); d.create();"
        "d.close(); assert not any(name.startswith('alembic') for name in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, url], cwd=ROOT, env={"PYTHONPATH": f"{ROOT}:{ROOT / 'sdk'}"},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
