"""Statements that several modules of the ledger share."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from sqlalchemy import ColumnElement, Connection, bindparam, delete, func, select, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.types import BigInteger, String

from umbel.protocol.states import TaskState

from .statements import Statement, insert_returning
from .tables import blobs, bundles, endpoints, groups, loads

#: Maximum size of a blob in which payloads are stored together; small enough that a refill reads few other
#: payloads, bytes.
BLOB_BYTES = 256 * 1024
#: Payloads from this size on are not hashed to find equal ones, bytes.
DISTINCT_BYTES = 64 * 1024


def among(connection: Connection, column: ColumnElement[Any], values: Sequence[int] | Sequence[str]) -> Any:
    """Return the condition ``column IN values`` with one parameter for any number of values."""
    if connection.dialect.name == "sqlite":
        each = func.json_each(json.dumps(list(values))).table_valued("value")
        return column.in_(select(each.c.value))
    kind = String() if isinstance(column.type, String) else BigInteger()
    return column == func.any(bindparam(None, list(values), type_=postgresql.ARRAY(kind)))


_lock = Statement(
    lambda d: select(endpoints.c.no)
    .where(d.among(endpoints.c.no, "nos"))
    .order_by(endpoints.c.no)
    .with_for_update(key_share=True)
)


def lock_endpoints(connection: Connection, numbers: Iterable[int]) -> None:
    """Give this transaction the exclusive right to change tasks of these endpoints.

    Every transaction takes these locks first and in order, which prevents deadlocks. ``dispatch.catch_up`` is
    called after it, because new tasks are accepted without this lock (see ``arrivals``). SQLite allows only
    one writer at a time, so it needs no locks.
    """
    ordered = sorted(set(numbers))
    if ordered and connection.dialect.name != "sqlite":
        _lock.rows(connection, nos=ordered)


_lock_by_id = Statement(
    lambda d: select(endpoints.c.id, endpoints.c.no)
    .where(d.among(endpoints.c.id, "ids"), endpoints.c.deleted.is_(None))
    .order_by(endpoints.c.no)
    .with_for_update(key_share=True)
)


def lock_endpoints_by_id(connection: Connection, ids: Iterable[str]) -> dict[str, int]:
    """Like ``lock_endpoints``; return the numbers of the endpoints that are not deleted, by id."""
    return dict(_lock_by_id.rows(connection, ids=sorted(set(ids))))


_free = Statement(
    lambda d: select(endpoints.c.no)
    .where(endpoints.c.no == bindparam("no"))
    .with_for_update(key_share=True, skip_locked=True)
)


def lock_free_endpoint(connection: Connection, number: int) -> bool:
    """Like ``lock_endpoints``, but return False if another transaction has the lock."""
    return connection.dialect.name == "sqlite" or _free.value(connection, no=number) is not None


_delete = Statement(
    lambda d: select(endpoints.c.no).where(endpoints.c.no == bindparam("no")).with_for_update()
)


def lock_endpoint_to_delete(connection: Connection, number: int) -> None:
    """Like ``lock_endpoints``, and also keep submissions from being accepted."""
    if connection.dialect.name != "sqlite":
        _delete.value(connection, no=number)


#: First key of the advisory locks of ``lock_limit`` (arbitrary numbers).
_LIMITS = {"endpoint": 7_566_268, "user": 7_566_269}


def lock_limit(connection: Connection, kind: str, number: int) -> bool:
    """Wait until no other submission checks the same limit; return False if there is only one anyway."""
    if connection.dialect.name == "sqlite":
        return False
    connection.execute(select(func.pg_advisory_xact_lock(_LIMITS[kind], number)))
    return True


def try_advisory_lock(connection: Connection, lock: int) -> bool:
    """Take an advisory lock; return False if another transaction has it."""
    if connection.dialect.name == "sqlite":
        return True
    return bool(connection.execute(select(func.pg_try_advisory_xact_lock(lock))).scalar())


class Load(NamedTuple):
    """Changes of a row of ``loads``: its running totals, see there."""

    live: int = 0
    sent: int = 0
    running: int = 0
    occupied: int = 0


def _add_load(dialect: Any) -> Any:
    statement = dialect.insert(loads)
    return statement.on_conflict_do_update(
        index_elements=["endpoint_no", "user_no"],
        set_={name: loads.c[name] + statement.excluded[name] for name in Load._fields},
    )


_LOAD = ("endpoint_no", "user_no", *Load._fields)
_load = Statement(_add_load, _LOAD)


def change_loads(connection: Connection, changes: Mapping[tuple[int, int], Load]) -> None:
    """Change the running totals of (endpoint, user) pairs."""
    rows = [(*pair, *change) for pair, change in sorted(changes.items()) if any(change)]
    _load.each(connection, _LOAD, rows)


_add_blob = insert_returning(blobs, "data", "refs")
_read_blobs = Statement(lambda d: select(blobs.c.no, blobs.c.data).where(d.among(blobs.c.no, "nos")))
_use_blob = Statement(
    lambda d: update(blobs)
    .values(refs=blobs.c.refs - bindparam("uses"))
    .where(blobs.c.no == bindparam("blob"))
)
_drop_blobs = Statement(lambda d: delete(blobs).where(d.among(blobs.c.no, "nos"), blobs.c.refs <= 0))


def add_blob(connection: Connection, data: bytes, refs: int) -> int:
    """Store bytes that ``refs`` tasks refer to; return the blob's number."""
    return int(_add_blob.value(connection, data=data, refs=refs))


def add_payloads(
    connection: Connection, payloads: Sequence[bytes]
) -> tuple[list[tuple[int, int, int]], dict[int, bytes]]:
    """Store payloads in few blobs, duplicates once; return (blob, offset, size) of each, and the blobs."""
    parts: list[list[bytes]] = [[]]
    refs = [0]
    size = 0
    known: dict[Any, tuple[int, int]] = {}
    places: list[tuple[int, int, int]] = []
    for payload in payloads:
        key = payload if len(payload) < DISTINCT_BYTES else _Large(payload)
        place = known.get(key)
        if place is None:
            if size and size + len(payload) > BLOB_BYTES:
                parts.append([])
                refs.append(0)
                size = 0
            place = known[key] = len(parts) - 1, size
            parts[-1].append(payload)
            size += len(payload)
        refs[place[0]] += 1
        places.append((*place, len(payload)))
    joined = [b"".join(part) for part in parts]
    numbers = [add_blob(connection, data, count) for data, count in zip(joined, refs)]
    return [(numbers[part], offset, length) for part, offset, length in places], dict(zip(numbers, joined))


class _Large:
    """A large payload as a key: compared with others of its size and end instead of hashed as a whole."""

    def __init__(self, payload: bytes):
        self._payload = payload

    def __hash__(self) -> int:
        return hash((len(self._payload), self._payload[-64:]))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Large) and self._payload == other._payload


def read_blobs(connection: Connection, numbers: Iterable[int | None]) -> dict[int, bytes]:
    """Return the content of blobs by number."""
    distinct = sorted({number for number in numbers if number is not None})
    return {no: bytes(data) for no, data in _read_blobs.rows(connection, nos=distinct)} if distinct else {}


def release_blobs(connection: Connection, uses: Mapping[int, int]) -> None:
    """Remove ``uses[no]`` references from each blob; delete blobs without references."""
    if uses:
        _use_blob.each(connection, ("uses", "blob"), [(count, no) for no, count in sorted(uses.items())])
        _drop_blobs.run(connection, nos=list(uses))


_complete = Statement(
    lambda d: update(groups)
    .values(completions=groups.c.completions + bindparam("count"))
    .where(groups.c.no == bindparam("group"))
    .returning(groups.c.completions, groups.c.id)
)


def next_completions(connection: Connection, group_no: int, count: int) -> tuple[int, str]:
    """Reserve ``count`` completion numbers of a group; return the first one and the group's id."""
    row = _complete.first(connection, group=group_no, count=count)
    assert row is not None, f"group {group_no} was deleted while it has live tasks"
    return row[0] - count + 1, row[1]


_close = Statement(
    lambda d: update(bundles)
    .values(open=bundles.c.open - bindparam("ended"))
    .where(bundles.c.no == bindparam("bundle"))
)
_drop_bundles = Statement(
    lambda d: delete(bundles)
    .where(d.among(bundles.c.no, "nos"), bundles.c.open <= 0)
    .returning(bundles.c.no, bundles.c.cores)
)


class Sent(Protocol):
    """What ``close_bundles`` must know of a call."""

    @property
    def endpoint_no(self) -> int: ...  # noqa: D102

    @property
    def user_no(self) -> int: ...  # noqa: D102

    @property
    def bundle_no(self) -> int | None: ...  # noqa: D102

    @property
    def state(self) -> str: ...  # noqa: D102


def close_bundles(connection: Connection, calls: Iterable[Sent]) -> dict[tuple[int, int], Load]:
    """Subtract calls that ended or were returned from their bundles; delete bundles without open calls.

    ``calls``: as they were before. Returns the changes of the loads, for ``change_loads``.
    """
    owners: dict[int, tuple[int, int]] = {}
    ended: Counter[int] = Counter()
    changes: dict[tuple[int, int], Load] = {}
    # counted first: a report contains a thousand calls of few bundles
    alike = Counter((call.bundle_no, call.endpoint_no, call.user_no, call.state) for call in calls)
    for (bundle_no, endpoint_no, user_no, state), count in alike.items():
        if bundle_no is None:
            continue
        ended[bundle_no] += count
        pair = owners[bundle_no] = endpoint_no, user_no
        load = changes.get(pair, Load())
        running = count if state == TaskState.RUNNING else 0
        changes[pair] = load._replace(sent=load.sent - count, running=load.running - running)
    if ended:
        _close.each(connection, ("ended", "bundle"), [(count, no) for no, count in sorted(ended.items())])
        for no, cores in _drop_bundles.rows(connection, nos=list(ended)):
            load = changes[owners[no]]
            changes[owners[no]] = load._replace(occupied=load.occupied - cores)
    return changes
