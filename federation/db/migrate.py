"""Upgrades and downgrades the database schema with Alembic.

To add a revision, write a file in ``migrations/versions`` with ``revision`` one higher and ``down_revision``
set to the last one, and set ``engine.SCHEMA`` to the new revision. The schema tests
(``tests/contract/ledger/test_ledger_schema.py``) print the differences between the migrations and ``tables``.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

#: Alembic's directory, next to this module.
FOLDER = Path(__file__).with_name("migrations")


def config(connection: Connection | None = None) -> Config:
    """Return Alembic's configuration. ``connection``: where revisions are applied."""
    if connection is not None and not connection.in_transaction():
        connection.begin()  # otherwise Alembic would begin and commit its own transaction
    made = Config()
    # '%' starts an interpolation in the configuration
    made.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    made.attributes["connection"] = connection
    return made


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Apply all revisions up to ``revision``, within the connection's transaction."""
    command.upgrade(config(connection), revision)


def downgrade(connection: Connection, revision: str) -> None:
    """Revert all revisions after ``revision`` ("base": all), within the connection's transaction."""
    command.downgrade(config(connection), revision)
