"""Pages of lists, with a limit and an opaque cursor.

Lists are ordered by row number, newest first, so a page is one index range and rows added later do not shift
it.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Column, Connection, Row, Select

from umbel.protocol.errors import BadRequest

#: Default and maximum number of items per page.
DEFAULT_LIMIT = 100
MAX_LIMIT = 1000
# row numbers have 63 bits, 16 hexadecimal digits
_MAX_DIGITS = 16


def encode_cursor(no: int) -> str:
    """Return the cursor of the page after the row with this number."""
    return f"{no:x}"


def decode_cursor(cursor: str | None) -> int | None:
    """Return the row number in a cursor, or None for the first page. Raises BadRequest."""
    if cursor is None:
        return None
    if not 0 < len(cursor) <= _MAX_DIGITS or not set(cursor) <= set("0123456789abcdef"):
        raise BadRequest(
            f"invalid cursor '{cursor[:64]}': pass the value of 'next' from the previous page",
            details={"cursor": cursor[:64]},
        )
    return min(int(cursor, 16), 2**63 - 1)


def fetch(
    connection: Connection, query: Select, no: Column[int], *, limit: int, cursor: str | None
) -> tuple[Sequence[Row], str | None]:
    """Return one page of the rows of ``query``, newest first, and the cursor of the next page or None.

    ``no``: the row number column that orders the list; the query must select it. ``limit`` is clamped to 1 to
    ``MAX_LIMIT``. Raises BadRequest for an invalid cursor.
    """
    limit = max(1, min(limit, MAX_LIMIT))
    after = decode_cursor(cursor)
    if after is not None:
        query = query.where(no < after)
    rows = connection.execute(query.order_by(no.desc()).limit(limit + 1)).all()
    if len(rows) <= limit:
        return rows, None
    return rows[:limit], encode_cursor(rows[limit - 1].no)
