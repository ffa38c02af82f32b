"""The rows of blocks: written before a job is submitted, then updated from scheduler and heartbeats."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Row, case, delete, func, insert, select, update

from ...context import Federation
from ...db.tables import blocks, nodes, sites
from ..planning.model import Block, BlockState
from ..planning.policy import Policy

_b = blocks.c
DAY = 86400.0
#: Most ended blocks that are shown, newest first.
SHOWN = 50
#: Seconds for which nodes of ended blocks are kept: results and tasks refer to them.
KEEP_NODES = 7 * DAY


def new_name(endpoint_id: str) -> str:
    """Return a unique job name."""
    return f"umbel-{endpoint_id[:8]}-{secrets.token_hex(4)}"


def add(fed: Federation, endpoint_no: int, name: str, policy: Policy, now: float) -> None:
    """Insert the row of a job that is about to be submitted."""
    row = {
        "endpoint_no": endpoint_no,
        "name": name,
        "state": BlockState.SUBMITTING.value,
        "nodes": policy.nodes_per_block,
        "slots": policy.slots_per_block,
        "walltime": policy.walltime,
        "submitted": now,
    }
    with fed.database.write() as connection:
        connection.execute(insert(blocks).values(row))


def change(fed: Federation, name: str, **values: Any) -> None:
    """Update columns of a block; ``state`` may be a BlockState and ``hosts`` a list."""
    if isinstance(values.get("state"), BlockState):
        values["state"] = values["state"].value
    if "hosts" in values:
        values["hosts"] = json.dumps(list(values["hosts"]))
    with fed.database.write() as connection:
        connection.execute(update(blocks).where(_b.name == name).values(**values))


def active(connection: Connection, endpoint_no: int) -> list[Row]:
    """Return the rows of active blocks, oldest first."""
    query = select(blocks).where(_b.endpoint_no == endpoint_no, _b.ended.is_(None)).order_by(_b.no)
    return list(connection.execute(query))


def find(connection: Connection, name: str) -> Row:
    """Return the row of one block."""
    return connection.execute(select(blocks).where(_b.name == name)).one()


def names(connection: Connection, endpoint_no: int) -> set[str]:
    """Return the names of active blocks."""
    return {row.name for row in active(connection, endpoint_no)}


def block(row: Row) -> Block:
    """Convert a row to a ``Block``."""
    return Block(
        name=row.name,
        state=BlockState(row.state),
        nodes=row.nodes,
        slots=row.slots,
        walltime=row.walltime,
        submitted=row.submitted,
        started=row.started,
        joined=row.joined,
        workers=row.workers,
        busy=row.busy,
        idle_since=row.idle_since,
        silent_since=row.silent_since,
        drained=row.drained,
        cancelled=row.cancelled,
    )


def hosts(row: Any) -> list[str]:
    """Return the hosts that a block runs or ran on."""
    return list(json.loads(row.hosts))


def used_hours(connection: Connection, endpoint_no: int, since: float) -> float:
    """Return the node-hours of ended blocks after ``since`` (seconds since 1970)."""
    begin = case((_b.started > since, _b.started), else_=since)
    spent = func.sum((_b.ended - begin) * _b.nodes)
    query = select(spent).where(_b.endpoint_no == endpoint_no, _b.ended > since, _b.started.is_not(None))
    return float(connection.execute(query).scalar() or 0.0) / 3600.0


def used_hours_total(connection: Connection, endpoint_no: int) -> float:
    """Return the node-hours of all ended blocks, including those whose rows were deleted."""
    forgotten = connection.execute(select(sites.c.forgotten_hours).where(sites.c.endpoint_no == endpoint_no))
    return used_hours(connection, endpoint_no, 0.0) + float(forgotten.scalar() or 0.0)


def apply_heartbeats(fed: Federation, endpoint_no: int, now: float) -> list[str]:
    """Update the rows from heartbeats; return the names of blocks with their first heartbeat.

    A worker node is named ``<block>.<host>``. Heartbeats override the scheduler: a block with a live worker
    runs.
    """
    with fed.database.read() as connection:
        rows = active(connection, endpoint_no)
        by_block = _workers(
            connection, endpoint_no, [row.name for row in rows], now - fed.settings.node_lost_after
        )
    joined, changes = [], []
    for row in rows:
        values = _heartbeat_changes(row, by_block.get(row.name, []), now)
        if values.get("joined"):
            joined.append(row.name)
        if values:
            changes.append((row.name, values))
    if changes:
        with fed.database.write() as connection:
            for name, values in changes:
                connection.execute(update(blocks).where(_b.name == name).values(**values))
    return joined


def _workers(
    connection: Connection, endpoint_no: int, wanted: list[str], since: float
) -> dict[str, list[Row]]:
    """Worker nodes by block."""
    if not wanted:
        return {}
    live = case(((nodes.c.live == 1) & (nodes.c.seen > since), 1), else_=0).label("alive")
    query = select(nodes.c.name, nodes.c.busy, nodes.c.since, nodes.c.seen, live).where(
        nodes.c.endpoint_no == endpoint_no, nodes.c.seen > since - DAY, nodes.c.name.like("umbel-%")
    )
    found: dict[str, list[Row]] = {name: [] for name in wanted}
    for row in connection.execute(query):
        name = row.name.partition(".")[0]
        if name in found:
            found[name].append(row)
    return found


def _heartbeat_changes(row: Row, workers: list[Row], now: float) -> dict[str, Any]:
    alive = [worker for worker in workers if worker.alive]
    busy = sum(worker.busy for worker in alive)
    values: dict[str, Any] = {}
    if workers and row.joined is None:
        values["joined"] = min(worker.since for worker in workers)
    if workers and row.started is None:
        values["started"] = min(worker.since for worker in workers)
    if alive and row.state in (BlockState.PENDING.value, BlockState.HELD.value):
        values["state"] = BlockState.RUNNING.value
    idle = (row.idle_since or now) if alive and not busy else None
    silent = (row.silent_since or now) if workers and not alive else None
    counted = row.counted if row.counted is not None else now
    fresh = {"workers": len(alive), "busy": busy, "idle_since": idle, "silent_since": silent}
    values.update({name: value for name, value in fresh.items() if getattr(row, name) != value})
    if alive:
        passed = min(60.0, max(0.0, now - counted))
        if passed >= 5.0 or row.counted is None or values:
            values["busy_seconds"] = row.busy_seconds + passed * min(row.busy, row.slots)
            values["idle_seconds"] = row.idle_seconds + passed * max(0, row.slots - row.busy)
            values["counted"] = now
    return values


def route_of(connection: Connection, endpoint_no: int, name: str) -> str:
    """Return the route to the broker that a worker of the block reported (``name=host:port``), or ""."""
    query = select(nodes.c.facts).where(nodes.c.endpoint_no == endpoint_no, nodes.c.name.like(f"{name}.%"))
    for facts in connection.execute(query.limit(100)).scalars():
        route = json.loads(facts).get("way")
        if isinstance(route, str) and "=" in route:
            return route[:200]
    return ""


def last_seen(connection: Connection, endpoint_no: int, name: str) -> dict[str, float]:
    """Return the time of each node's last heartbeat, by the name that the machine has for itself."""
    query = select(nodes.c.name, nodes.c.seen).where(
        nodes.c.endpoint_no == endpoint_no, nodes.c.name.like(f"{name}.%")
    )
    return {row.name.partition(".")[2]: row.seen for row in connection.execute(query)}


def delete_old_nodes(fed: Federation, endpoint_no: int, now: float) -> int:
    """Delete the rows of worker nodes without a heartbeat for ``KEEP_NODES`` seconds; return how many.

    Every block adds nodes with new names, so without this the table would only grow.
    """
    old = (
        select(nodes.c.no)
        .where(
            nodes.c.endpoint_no == endpoint_no,
            nodes.c.live == 0,
            nodes.c.seen < now - KEEP_NODES,
            nodes.c.name.like("umbel-%"),
        )
        .limit(500)
    )
    with fed.database.read() as connection:
        found = [row.no for row in connection.execute(old) if row.no is not None]
    if found:
        with fed.database.write() as connection:
            # a node that has come back in the meantime stays
            still = nodes.c.no.in_(found), nodes.c.live == 0
            connection.execute(delete(nodes).where(*still))
    return len(found)


def page(connection: Connection, endpoint_no: int) -> list[dict[str, Any]]:
    """Return the active blocks and the newest ended ones, for display."""
    newest = (
        select(blocks)
        .where(_b.endpoint_no == endpoint_no, _b.ended.is_not(None))
        .order_by(_b.no.desc())
        .limit(SHOWN)
    )
    rows = [*reversed(active(connection, endpoint_no)), *connection.execute(newest)]
    return [describe(row._mapping, time.time()) for row in rows]


def describe(row: Mapping[str, Any], now: float) -> dict[str, Any]:
    """Return one block for the API: times in seconds since 1970, waits and costs up to ``now``."""
    plain = "name job_id state reason nodes slots walltime submitted started joined ended workers busy tail"
    shown: dict[str, Any] = {name: row[name] for name in plain.split()}
    started, ended = row["started"], row["ended"]
    return {
        **shown,
        "hosts": json.loads(row["hosts"]),
        "queue_wait": None if started is None else max(0.0, started - row["submitted"]),
        "busy_slot_seconds": row["busy_seconds"],
        "idle_slot_seconds": row["idle_seconds"],
        "age": max(0.0, (ended or now) - row["submitted"]),
        "node_hours": (
            None if started is None else max(0.0, (ended or now) - started) * row["nodes"] / 3600.0
        ),
    }
