"""Small statements that several parts of the ledger share."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Table,
    bindparam,
    delete,
    func,
    insert,
    literal,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.types import BigInteger, String

from .tables import blobs, endpoints, groups, loads


def among(connection: Connection, column: ColumnElement[Any], values: Sequence[int] | Sequence[str]) -> Any:
    """A condition ``column IN values`` that is one parameter, whatever the number of values."""
    if connection.dialect.name == "sqlite":
        each = func.json_each(json.dumps(list(values))).table_valued("value")
        return column.in_(select(each.c.value))
    kind = BigInteger() if values and isinstance(values[0], int) else String()
    array = bindparam(None, list(values), type_=postgresql.ARRAY(kind))
    return column == func.any(array)


def lock_endpoints(connection: Connection, numbers: Iterable[int]) -> None:
    """Make this transaction the only one that moves tasks of these endpoints.

    Always taken first and in order, so that transactions cannot wait for each other in a circle. SQLite
    has one writer at a time anyway.
    """
    wanted = sorted(set(numbers))
    if wanted and connection.dialect.name != "sqlite":
        query = select(endpoints.c.no).where(among(connection, endpoints.c.no, wanted))
        connection.execute(query.order_by(endpoints.c.no).with_for_update())


def add_load(connection: Connection, changes: Mapping[tuple[int, int], int]) -> None:
    """Change the number of unfinished calls of (endpoint, user) pairs."""
    make = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    rows = [{"endpoint_no": e, "user_no": u, "live": n} for (e, u), n in sorted(changes.items()) if n]
    if rows:
        statement = make(loads)
        statement = statement.on_conflict_do_update(
            index_elements=["endpoint_no", "user_no"], set_={"live": loads.c.live + statement.excluded.live}
        )
        connection.execute(statement, rows)


def insert_one(connection: Connection, table: Table, values: Mapping[str, Any]) -> int:
    """Insert one row; return its number."""
    key = connection.execute(insert(table), values).inserted_primary_key
    assert key is not None
    return int(key[0])


def add_blob(connection: Connection, data: bytes, refs: int) -> int:
    """Store bytes that ``refs`` tasks will point into; return the blob's number."""
    return insert_one(connection, blobs, {"data": data, "refs": refs})


def read_blobs(connection: Connection, numbers: Iterable[int | None]) -> dict[int, bytes]:
    """Return the content of blobs by number."""
    wanted = sorted({number for number in numbers if number is not None})
    if not wanted:
        return {}
    query = select(blobs.c.no, blobs.c.data).where(among(connection, blobs.c.no, wanted))
    return {no: data for no, data in connection.execute(query)}


def release_blobs(connection: Connection, uses: Mapping[int, int]) -> None:
    """Tell blobs that ``uses[no]`` tasks no longer point into them; the unused go."""
    if not uses:
        return
    rows = [{"b_no": no, "b_uses": count} for no, count in uses.items()]
    statement = update(blobs).where(blobs.c.no == bindparam("b_no"))
    connection.execute(statement.values(refs=blobs.c.refs - bindparam("b_uses")), rows)
    connection.execute(delete(blobs).where(among(connection, blobs.c.no, list(uses)), blobs.c.refs <= 0))


def next_completions(connection: Connection, group_no: int, count: int) -> int:
    """Take ``count`` completion numbers of a group; return the first."""
    statement = update(groups).where(groups.c.no == group_no)
    statement = statement.values(completions=groups.c.completions + count)
    last = connection.execute(statement.returning(groups.c.completions)).scalar_one()
    return int(last) - count + 1


def constant(value: str) -> Any:
    """A SQL constant (not a parameter), so that partial indexes are recognised."""
    return literal(value, literal_execute=True)
