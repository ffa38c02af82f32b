"""How long the calls of a function run on an endpoint: a moving average, learned from reports."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, select
from sqlalchemy.dialects import postgresql, sqlite

from umbel.protocol.messages import Row, Status

from .. import rows
from ..tables import estimates

#: Weight of one report beside all before it grows with its calls up to this.
MOST_WEIGHT = 0.5


def learn(connection: Connection, endpoint_no: int, pairs: Sequence[tuple[Any, Row]], now: float) -> None:
    """Learn run times from (task, report row) pairs.

    A call that is still running counts with the time it has taken so far, when that is more than is known:
    that is how a kind that turned out long is cut smaller at once.
    """
    ended: dict[int, list[float]] = defaultdict(list)
    running: dict[int, float] = defaultdict(float)
    for task, row in pairs:
        if row.status in (Status.SUCCEEDED, Status.FAILED) and row.started:
            ended[task.function_no].append(max(row.wall, 0.0))
        elif row.status == Status.RUNNING:
            running[task.function_no] = max(running[task.function_no], row.wall)
    if not ended and not running:
        return
    known = _known(connection, endpoint_no, sorted({*ended, *running}))
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
    _store(connection, endpoint_no, learned, now)


def _known(connection: Connection, endpoint_no: int, function_nos: list[int]) -> dict[int, float]:
    query = select(estimates.c.function_no, estimates.c.seconds).where(
        estimates.c.endpoint_no == endpoint_no, rows.among(connection, estimates.c.function_no, function_nos)
    )
    return {no: seconds for no, seconds in connection.execute(query)}


def _store(connection: Connection, endpoint_no: int, learned: dict[int, float], now: float) -> None:
    if not learned:
        return
    make = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    statement = make(estimates)
    statement = statement.on_conflict_do_update(
        index_elements=["endpoint_no", "function_no"],
        set_={"seconds": statement.excluded.seconds, "updated": statement.excluded.updated},
    )
    connection.execute(
        statement,
        [
            {"endpoint_no": endpoint_no, "function_no": no, "seconds": seconds, "updated": now}
            for no, seconds in sorted(learned.items())
        ],
    )
