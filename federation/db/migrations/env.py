"""What Alembic runs to apply revisions; see ``federation.db.migrate``, which gives it the connection."""

from __future__ import annotations

from alembic import context

from federation.db.tables import metadata


def apply() -> None:
    """Apply the revisions asked for, on the connection given, within its transaction."""
    context.configure(
        connection=context.config.attributes["connection"],
        target_metadata=metadata,
        # SQLite cannot alter a table; a batch makes it anew
        render_as_batch=True,
    )
    context.run_migrations()


# the name under which Alembic runs this file
if __name__ == "env_py":
    apply()
