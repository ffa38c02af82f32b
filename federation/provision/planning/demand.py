"""What an endpoint has to do, from the ledger: unfinished calls by function, with their expected run time."""

from __future__ import annotations

from collections import Counter

from sqlalchemy import Connection, exists, func, literal_column, select

from ...db.tables import blocks, bundles, loads, sites, tasks
from ...dispatch.run_times import known_seconds
from .model import Demand, Work

#: Queued calls that are looked at; when there are more, these stand for all.
SAMPLE = 5_000


def observe(connection: Connection, endpoint_no: int, now: float) -> Demand:
    """Count the unfinished calls of an endpoint by function.

    Costs the same for a million calls as for some thousand: the oldest are counted and stand for the rest.
    A call that runs is expected to take twice what it has taken so far, unless its kind is longer.
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


def without_blocks(connection: Connection) -> set[int]:
    """Numbers of the elastic endpoints that have unfinished calls and no block, not even one that waits."""
    some = exists().where(blocks.c.endpoint_no == sites.c.endpoint_no, blocks.c.ended.is_(None))
    work = exists().where(loads.c.endpoint_no == sites.c.endpoint_no, loads.c.live > 0)
    return set(connection.execute(select(sites.c.endpoint_no).where(work, ~some)).scalars())


def _sent(connection: Connection, endpoint_no: int) -> list:
    """Calls at the workers: few (the window), found through their bundles."""
    query = (
        select(tasks.c.function_no, tasks.c.state, tasks.c.started)
        .join(bundles, tasks.c.bundle_no == bundles.c.no)
        .where(bundles.c.endpoint_no == endpoint_no, tasks.c.state.in_(("dispatched", "running")))
    )
    return list(connection.execute(query))


def _queued(connection: Connection, endpoint_no: int) -> Counter[int]:
    # a constant, not a parameter: so the partial index of queued tasks is recognised
    oldest = (
        select(tasks.c.function_no)
        .where(tasks.c.state == literal_column("'queued'"), tasks.c.endpoint_no == endpoint_no)
        .limit(SAMPLE)
        .subquery()
    )
    query = select(oldest.c.function_no, func.count()).group_by(oldest.c.function_no)
    return Counter({function_no: count for function_no, count in connection.execute(query)})
