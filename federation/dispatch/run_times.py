"""How long the calls of a function run on an endpoint: a moving average, learned from reports."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, bindparam, select

from umbel.protocol.messages import Interruption, Row, Status

from ..db.statements import Dialect, Statement
from ..db.tables import estimates

#: Weight of one report beside all before it grows with its calls up to this.
MOST_WEIGHT = 0.5


_known = Statement(
    lambda d: select(estimates.c.function_no, estimates.c.seconds).where(
        estimates.c.endpoint_no == bindparam("endpoint"), d.among(estimates.c.function_no, "functions")
    )
)


def known_seconds(connection: Connection, endpoint_no: int, function_nos: list[int]) -> dict[int, float]:
    """Return the run times known of functions on an endpoint, by function number."""
    return dict(_known.rows(connection, endpoint=endpoint_no, functions=function_nos))


def _upsert(dialect: Dialect) -> Any:
    statement = dialect.insert(estimates)
    return statement.on_conflict_do_update(
        index_elements=["endpoint_no", "function_no"],
        set_={"seconds": statement.excluded.seconds, "updated": statement.excluded.updated},
    )


_COLUMNS = ("endpoint_no", "function_no", "seconds", "updated")
_store = Statement(_upsert, _COLUMNS)


def learn(connection: Connection, endpoint_no: int, pairs: Iterable[tuple[int, Row]], now: float) -> None:
    """Learn run times from (function number, report row) pairs.

    A call that is still running counts with the time it has taken so far, when that is more than is known:
    that is how a kind that turned out long is cut smaller at once. A call that the end of its batch job has
    cut off takes longer than it ran.
    """
    ended: dict[int, list[float]] = defaultdict(list)
    running: dict[int, float] = defaultdict(float)
    cut_off: dict[int, float] = {}
    for function_no, row in pairs:
        if row.status in (Status.SUCCEEDED, Status.FAILED) and row.started:
            ended[function_no].append(max(row.wall, 0.0))
        elif row.status == Status.LOST and row.code == Interruption.WALLTIME:
            cut_off[function_no] = max(cut_off.get(function_no, 0.0), row.wall)
        elif row.status == Status.RUNNING:
            running[function_no] = max(running[function_no], row.wall)
    if not ended and not running and not cut_off:
        return
    known = known_seconds(connection, endpoint_no, sorted({*ended, *running, *cut_off}))
    learned = {}
    for function_no, walls in ended.items():
        mean = sum(walls) / len(walls)
        before = known.get(function_no)
        weight = min(MOST_WEIGHT, len(walls) / (len(walls) + 10))
        learned[function_no] = mean if before is None else before + weight * (mean - before)
    for function_no, wall in running.items():
        before = learned.get(function_no, known.get(function_no))
        if before is None or wall > before:
            learned[function_no] = wall if before is None else before + 0.2 * (wall - before)
    for function_no, wall in cut_off.items():
        learned[function_no] = max(wall, learned.get(function_no, known.get(function_no, 0.0)))
    values = [(endpoint_no, no, seconds, now) for no, seconds in sorted(learned.items())]
    _store.each(connection, _COLUMNS, values)
