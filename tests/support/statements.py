"""Count the statements sent to a database."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event

from federation.db import statements
from federation.db.engine import Database


@contextmanager
def counted(database: Database) -> Iterator[Counter[str]]:
    """Count the statements sent to a database meanwhile, by their text; one for many rows counts once.

    ``counter.total()`` is how many there were.
    """
    counter: Counter[str] = Counter()

    def executed(_c: Any, _cursor: Any, statement: str, _p: Any, _context: Any, _many: bool) -> None:
        counter[statement] += 1

    def observed(statement: str, _rows: int) -> None:
        counter[statement] += 1

    event.listen(database.engine, "before_cursor_execute", executed)
    try:
        with statements.observed(observed):
            yield counter
    finally:
        event.remove(database.engine, "before_cursor_execute", executed)
