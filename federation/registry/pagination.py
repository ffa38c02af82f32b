"""Pages of lists: a limit and an opaque cursor.

Lists run from the newest row to the oldest by the table's running number, so a page is one index range
whatever came before it, and rows added meanwhile move nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Column, Connection, Row, Select

from umbel.protocol.errors import BadRequest

#: How many items a page has when the caller does not say, and at most.
DEFAULT_LIMIT = 100
MAX_LIMIT = 1000
# numbers of rows are 63 bits wide
_MAX_DIGITS = 16


def encode_cursor(no: int) -> str:
    """Return the cursor of the page that follows the row with this number."""
    return f"{no:x}"


def decode_cursor(cursor: str | None) -> int | None:
    """Return the number behind a cursor, or None for the first page. Raises BadRequest."""
    if cursor is None:
        return None
    if not 0 < len(cursor) <= _MAX_DIGITS or not set(cursor) <= set("0123456789abcdef"):
        raise BadRequest(
            "this cursor is not one that the service gave out: pass the 'next' of the page before",
            details={"cursor": cursor[:64]},
        )
    return min(int(cursor, 16), 2**63 - 1)


def fetch(
    connection: Connection, query: Select, no: Column[int], *, limit: int, cursor: str | None
) -> tuple[Sequence[Row], str | None]:
    """Return one page of ``query``'s rows, newest first, and the next page's cursor or None.

    ``no``: the number column that orders the list; the query must select it. ``limit`` is held between
    1 and ``MAX_LIMIT``. Raises BadRequest for a cursor that is none.
    """
    limit = max(1, min(limit, MAX_LIMIT))
    after = decode_cursor(cursor)
    if after is not None:
        query = query.where(no < after)
    rows = connection.execute(query.order_by(no.desc()).limit(limit + 1)).all()
    if len(rows) <= limit:
        return rows, None
    return rows[:limit], encode_cursor(rows[limit - 1].no)
