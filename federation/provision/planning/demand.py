"""Demand of an endpoint, from the ledger: unfinished calls by function with their expected run time."""

from __future__ import annotations

from collections import Counter

from sqlalchemy import Connection, exists, func, literal_column, select

from ...db.tables import blocks, bundles, loads, sites, tasks
from ...dispatch.run_times import known_seconds
from .model import Demand, Work

#: Most queued calls that are counted; if there are more, the sample is scaled up.
SAMPLE = 5_000


def observe(connection: Connection, endpoint_no: int, now: float) -> Demand:
    """Count the unfinished calls of an endpoint by function.

    The cost is bounded by ``SAMPLE``: the oldest calls are counted and scaled to the total. A running call is
    expected to take twice its run time so far, or the average of its function if that is longer.
    """
    total = connection.execute(
        select(func.coalesce(func.sum(loads.c.live), 0)).where(loads.c.endpoint_no == endpoint_no)
    ).scalar_one()
    if not total:
        return Demand()
    sent = _sent(connection, endpoint_no)
    counts = Counter(row.function_no for row in sent)
    queued = _queued(connection, endpoint_no)
    seen = sum(queued.values())
    scale = max(1.0, (total - len(sent)) / seen) if seen else 1.0
    for function_no, count in queued.items():
        counts[function_no] += round(count * scale)
    seconds: dict[int, float] = known_seconds(connection, endpoint_no, sorted(counts))
    for row in sent:
        if row.started and row.state == "running":
            taken = 2.0 * max(0.0, now - row.started)
            seconds[row.function_no] = max(seconds.get(row.function_no, 0.0), taken)
    return Demand(tuple(Work(count, seconds.get(no)) for no, count in sorted(counts.items())))


def endpoints_without_blocks(connection: Connection) -> set[int]:
    """Return the numbers of elastic endpoints with unfinished calls and no active block."""
    some = exists().where(blocks.c.endpoint_no == sites.c.endpoint_no, blocks.c.ended.is_(None))
    work = exists().where(loads.c.endpoint_no == sites.c.endpoint_no, loads.c.live > 0)
    return set(connection.execute(select(sites.c.endpoint_no).where(work, ~some)).scalars())


def _sent(connection: Connection, endpoint_no: int) -> list:
    """Calls sent to workers: few (the window), found through their bundles."""
    query = (
        select(tasks.c.function_no, tasks.c.state, tasks.c.started)
        .join(bundles, tasks.c.bundle_no == bundles.c.no)
        .where(bundles.c.endpoint_no == endpoint_no, tasks.c.state.in_(("dispatched", "running")))
    )
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
