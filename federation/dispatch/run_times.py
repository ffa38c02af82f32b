"""Run times of functions by endpoint: a moving average, updated from reports."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, bindparam, select

from umbel.protocol.messages import Interruption, Row, Status

from ..db.statements import Dialect, Statement
from ..db.tables import estimates

#: Maximum weight of one report in the moving average; the weight grows with the number of its calls.
MAX_WEIGHT = 0.5


_known = Statement(
    lambda d: select(estimates.c.function_no, estimates.c.seconds).where(
        estimates.c.endpoint_no == bindparam("endpoint"), d.among(estimates.c.function_no, "functions")
    )
)


def known_seconds(connection: Connection, endpoint_no: int, function_nos: list[int]) -> dict[int, float]:
    """Return the known run times of functions on an endpoint, by function number."""
    return dict(_known.rows(connection, endpoint=endpoint_no, functions=function_nos))


class ByFunction(Mapping[Hashable, float]):
    """Run times by kind (function number, options), looked up by function number only."""

    def __init__(self, seconds: dict[int, float]):
        self._seconds = seconds

    def __getitem__(self, kind: Any) -> float:
        return self._seconds[kind[0]]

    def __iter__(self) -> Any:
        return iter(self._seconds)

    def __len__(self) -> int:
        return len(self._seconds)


def _upsert(dialect: Dialect) -> Any:
    statement = dialect.insert(estimates)
    return statement.on_conflict_do_update(
        index_elements=["endpoint_no", "function_no"],
        set_={"seconds": statement.excluded.seconds, "updated": statement.excluded.updated},
    )


_COLUMNS = ("endpoint_no", "function_no", "seconds", "updated")
_store = Statement(_upsert, _COLUMNS)


def update_run_times(
    connection: Connection, endpoint_no: int, pairs: Iterable[tuple[int, Row]], now: float
) -> None:
    """Update run times from (function number, report row) pairs.

    A call that is still running counts with its run time so far if that exceeds the known run time, so that
    bundles of a slow function become smaller at once. For a call that the end of its batch job interrupted,
    the time until then is a lower bound.
    """
    ended: dict[int, list[float]] = defaultdict(list)
    running: dict[int, float] = defaultdict(float)
    interrupted: dict[int, float] = {}
    for function_no, row in pairs:
        if row.status in (Status.SUCCEEDED, Status.FAILED) and row.started:
            ended[function_no].append(max(row.wall, 0.0))
        elif row.status == Status.LOST and row.code == Interruption.WALLTIME:
            interrupted[function_no] = max(interrupted.get(function_no, 0.0), row.wall)
        elif row.status == Status.RUNNING:
            running[function_no] = max(running[function_no], row.wall)
    if not ended and not running and not interrupted:
        return
    known = known_seconds(connection, endpoint_no, sorted({*ended, *running, *interrupted}))
    updated = {}
    for function_no, walls in ended.items():
        mean = sum(walls) / len(walls)
        before = known.get(function_no)
        weight = min(MAX_WEIGHT, len(walls) / (len(walls) + 10))
        updated[function_no] = mean if before is None else before + weight * (mean - before)
    for function_no, wall in running.items():
        before = updated.get(function_no, known.get(function_no))
        if before is None or wall > before:
            updated[function_no] = wall if before is None else before + 0.2 * (wall - before)
    for function_no, wall in interrupted.items():
        updated[function_no] = max(wall, updated.get(function_no, known.get(function_no, 0.0)))
    values = [(endpoint_no, no, seconds, now) for no, seconds in sorted(updated.items())]
    _store.each(connection, _COLUMNS, values)
