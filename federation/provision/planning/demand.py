"""Demand of an endpoint, from the ledger: unfinished calls by function with their expected run time."""

from __future__ import annotations

from collections import Counter

from sqlalchemy import Connection, case, exists, func, literal_column, select

from ...db.arrivals import by_endpoint
from ...db.tables import arrivals, blocks, bundles, loads, sites, tasks
from ...dispatch.run_times import known_seconds
from .model import Demand, Work

#: Most queued calls and most sent calls that are counted; if there are more, the sample is scaled up.
SAMPLE = 5_000


def observe(connection: Connection, endpoint_no: int, now: float) -> Demand:
    """Count the unfinished calls of an endpoint by function.

    The cost is bounded by ``SAMPLE``: the oldest calls are counted and scaled to the totals. A running call
    is expected to take twice its run time so far, or the average of its function if that is longer.
    """
    totals = (func.coalesce(func.sum(column), 0) for column in (loads.c.live, loads.c.sent))
    live, sent = connection.execute(select(*totals).where(loads.c.endpoint_no == endpoint_no)).one()
    live += sum(by_endpoint(connection, arrivals.c.endpoint_no == endpoint_no).values())
    if not live:
        return Demand()
    counts: Counter[int] = Counter()
    started: dict[int, float] = {}
    oldest = _sent(connection, endpoint_no) if sent else []
    scale = _scale(sent, sum(row.calls for row in oldest))
    for row in oldest:
        counts[row.function_no] += round(row.calls * scale)
        if row.started:
            started[row.function_no] = row.started
    queued = _queued(connection, endpoint_no) if live > sent else Counter()
    scale = _scale(live - sent, sum(queued.values()))
    for function_no, count in queued.items():
        counts[function_no] += round(count * scale)
    seconds: dict[int, float] = known_seconds(connection, endpoint_no, sorted(counts))
    for function_no, since in started.items():
        seconds[function_no] = max(seconds.get(function_no, 0.0), 2.0 * max(0.0, now - since))
    return Demand(tuple(Work(count, seconds.get(no)) for no, count in sorted(counts.items())))


def _scale(total: int, seen: int) -> float:
    return max(1.0, float(total) / seen) if seen else 1.0


def endpoints_without_blocks(connection: Connection) -> set[int]:
    """Return the numbers of elastic endpoints with unfinished calls and no active block."""
    some = exists().where(blocks.c.endpoint_no == sites.c.endpoint_no, blocks.c.ended.is_(None))
    work = exists().where(loads.c.endpoint_no == sites.c.endpoint_no, loads.c.live > 0)
    return set(connection.execute(select(sites.c.endpoint_no).where(work, ~some)).scalars())


def _sent(connection: Connection, endpoint_no: int) -> list:
    """Calls of the oldest bundles by function: how many, and when the first running one started."""
    running = case((tasks.c.state == literal_column("'running'"), tasks.c.started))
    oldest = (
        select(tasks.c.function_no, running.label("started"))
        .join(bundles, tasks.c.bundle_no == bundles.c.no)
        .where(bundles.c.endpoint_no == endpoint_no)
        .order_by(bundles.c.no)
        .limit(SAMPLE)
        .subquery()
    )
    counts = func.count().label("calls"), func.min(oldest.c.started).label("started")
    query = select(oldest.c.function_no, *counts).group_by(oldest.c.function_no)
    return list(connection.execute(query))


def _queued(connection: Connection, endpoint_no: int) -> Counter[int]:
    # a literal, not a parameter: otherwise the partial index of queued tasks is not used
    oldest = (
        select(tasks.c.function_no)
        .where(tasks.c.state == literal_column("'queued'"), tasks.c.endpoint_no == endpoint_no)
        .limit(SAMPLE)
        .subquery()
    )
    query = select(oldest.c.function_no, func.count()).group_by(oldest.c.function_no)
    return Counter({function_no: count for function_no, count in connection.execute(query)})
