"""Bringing a database to the present schema with Alembic.

A new revision is a file in ``migrations/versions``, written by hand, with ``revision`` one higher and
``down_revision`` the last one; ``database.SCHEMA`` names the newest. The tests of the schema
(``tests/contract/ledger/test_ledger_schema.py``) print what it still lacks in comparison with ``tables``.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

#: Beside this module, wherever the release tree or checkout lies.
FOLDER = Path(__file__).with_name("migrations")


def config(connection: Connection | None = None) -> Config:
    """Alembic's configuration; ``connection``: the one that revisions are applied on."""
    if connection is not None and not connection.in_transaction():
        connection.begin()  # else Alembic would begin and commit one of its own
    made = Config()
    # '%' would begin an interpolation
    made.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    made.attributes["connection"] = connection
    return made


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Apply all revisions up to ``revision``, within the connection's transaction."""
    command.upgrade(config(connection), revision)


def downgrade(connection: Connection, revision: str) -> None:
    """Take back all revisions after ``revision`` ("base": all), within the connection's transaction."""
    command.downgrade(config(connection), revision)
