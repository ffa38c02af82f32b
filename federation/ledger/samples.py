"""Samples of the resource use of a function's recent calls, and their statistics for choosing limits.

A function has ``PLACES`` places; each report writes some of its calls to random places. So the sample has a
bounded size, favors recent calls, costs little for any number of calls, and is read without reading tasks.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, select

from umbel.protocol.messages import Row, Status

from ..context import Federation
from ..db.statements import Dialect, Statement
from ..db.tables import functions, samples, tasks
from ..registry import functions as registry
from ..registry.users import User
from .task_rows import Task

#: Places of one function, and maximum number of places written per report.
PLACES, PER_REPORT = 1000, 8

QUANTITIES = ("queued", "wall", "cpu", "user", "system", "max_rss", "read", "written", "output")
_USED = ("cpu", "user", "system", "max_rss", "read", "written")
_COLUMNS = ("function_no", "place", "finished", *QUANTITIES)


def _upsert(dialect: Dialect) -> Any:
    statement = dialect.insert(samples)
    return statement.on_conflict_do_update(
        index_elements=["function_no", "place"],
        set_={name: statement.excluded[name] for name in _COLUMNS[2:]},
    )


_store = Statement(_upsert, _COLUMNS)
_created = Statement(lambda d: select(tasks.c.no, tasks.c.created).where(d.among(tasks.c.no, "nos")))
_read = Statement(
    lambda d: select(samples.c.finished, *[samples.c[name] for name in QUANTITIES])
    .join(functions, functions.c.no == samples.c.function_no)
    .where(functions.c.id == bindparam("id"))
)


def record(
    connection: Connection, ended: Sequence[tuple[Task, Row]], written: Mapping[str, int], now: float
) -> None:
    """Record some of the calls that succeeded or failed as samples.

    ``written``: bytes written to standard output and error, by task id.
    """
    chosen: dict[int, list[tuple[Task, Row]]] = defaultdict(list)
    for task, row in reversed(ended):
        mine = chosen[task.function_no]
        if len(mine) < PER_REPORT and row.started and row.status in (Status.SUCCEEDED, Status.FAILED):
            mine.append((task, row))
    pairs = [pair for mine in chosen.values() for pair in mine]
    if not pairs:
        return
    created = dict(_created.rows(connection, nos=[task.no for task, _ in pairs]))
    values = []
    for (task, row), place in zip(pairs, random.choices(range(PLACES), k=len(pairs))):
        used = row.usage or {}
        values.append(
            (
                task.function_no,
                place,
                now,
                max(0.0, row.started - created[task.no]),
                max(0.0, row.wall),
                *[_number(used.get(name)) for name in _USED],
                written.get(task.id, 0),
            )
        )
    _store.each(connection, _COLUMNS, values)


def _number(value: Any) -> Any:
    """Return a quantity if it is a valid number, else None; reports are not trusted."""
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 2**62
    return value if good else None


def summary(fed: Federation, user: User, function_id: str) -> dict[str, Any]:
    """Return p50, p95 and maximum of the resource use of a function's calls. Raises NotFound.

    Each quantity covers the sampled calls that have a value: run and queue time all of them, other quantities
    only calls that ran long enough to be measured.
    """
    registry.get(fed, user, function_id)
    with fed.database.read() as connection:
        rows = _read.rows(connection, id=function_id)
    columns = list(zip(*rows)) if rows else [() for _ in range(1 + len(QUANTITIES))]
    return {
        "function_id": function_id,
        "calls": len(rows),
        "since": min(columns[0], default=None),
        "quantities": {name: _figures(values) for name, values in zip(QUANTITIES, columns[1:])},
    }


def _figures(values: Sequence[float | None]) -> dict[str, Any] | None:
    known = sorted(value for value in values if value is not None)
    if not known:
        return None
    # nearest rank: always a measured value
    p50, p95 = (known[math.ceil(share * len(known)) - 1] for share in (0.5, 0.95))
    return {"calls": len(known), "p50": p50, "p95": p95, "max": known[-1]}
