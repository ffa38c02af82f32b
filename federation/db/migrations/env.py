"""Alembic's entry point for applying revisions; ``federation.db.migrate`` passes the connection."""

from __future__ import annotations

from alembic import context

from federation.db.tables import metadata


def apply() -> None:
    """Apply the requested revisions on the passed connection, within its transaction."""
    context.configure(
        connection=context.config.attributes["connection"],
        target_metadata=metadata,
        # SQLite cannot alter most columns; batch mode recreates the table
        render_as_batch=True,
    )
    context.run_migrations()


# the name under which Alembic runs this file
if __name__ == "env_py":
    apply()
