"""Returns space that deleted rows have left in a SQLite file to the file system, a little at a time.

A ledger that was created before this had another layout; SQLite changes it with ``VACUUM`` only, which needs
as much space again and blocks all writers. It keeps its size and uses the free pages again.
"""

from __future__ import annotations

from typing import Any

from .engine import Database

#: Free pages that are kept for new rows, and pages that one call returns: some milliseconds each.
KEPT, PAGES = 2560, 256


def release(database: Database) -> int:
    """Return free pages beyond ``KEPT`` to the file system; return how many. No effect on PostgreSQL."""
    if not database.sqlite:
        return 0
    with database.read() as connection:
        driver: Any = connection.connection.driver_connection
        free = int(driver.execute("PRAGMA freelist_count").fetchone()[0])
    if free < KEPT + PAGES:
        return 0
    with database.write() as connection:
        driver = connection.connection.driver_connection
        for _ in range(PAGES):
            # the driver runs only the first step of this statement, which is one page
            driver.execute("PRAGMA incremental_vacuum(1)")
        left = int(driver.execute("PRAGMA freelist_count").fetchone()[0])
    return free - left
