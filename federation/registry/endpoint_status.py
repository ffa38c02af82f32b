"""The current status of endpoints: worker nodes and queue.

Three statements read the status of a whole page of endpoints.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, and_, case, func, select

from umbel.protocol.states import EndpointState, TaskState

from ..db.arrivals import by_endpoint
from ..db.tables import arrivals, loads, nodes

#: Maximum nodes returned per endpoint: for a single endpoint, and in a list.
MAX_NODES = 10_000
MAX_NODES_LISTED = 20

_n = nodes.c
_SHOWN_STATES = (TaskState.QUEUED, TaskState.DISPATCHED, TaskState.RUNNING)


def read_status(
    connection: Connection, endpoint_nos: Sequence[int], *, since: float, nodes: int
) -> dict[int, dict[str, Any]]:
    """Return the status part of each endpoint's description, by endpoint number.

    A node is live if its heartbeat was seen after ``since`` and it has not shut down. At most ``nodes`` nodes
    are returned per endpoint, live ones first; the sums include all nodes.
    """
    queues = _queues(connection, endpoint_nos)
    totals = _totals(connection, endpoint_nos, since)
    shown = _nodes(connection, endpoint_nos, since, nodes)
    return {no: _state(totals.get(no), shown.get(no, []), queues.get(no, {})) for no in endpoint_nos}


def _state(totals: Row | None, shown: list[dict[str, Any]], queue: dict[str, int]) -> dict[str, Any]:
    first = dict(shown[0]) if shown else {}
    for node in shown:
        node.pop("packages", None)
    online = totals is not None and totals.live > 0
    return {
        "state": (EndpointState.ONLINE if online else EndpointState.OFFLINE).value,
        "last_heartbeat": totals.seen if totals else None,
        "slots_total": totals.slots if totals else 0,
        "slots_free": max(0, totals.slots - totals.busy) if totals else 0,
        "queue": {state.value: queue.get(state.value, 0) for state in _SHOWN_STATES},
        "nodes": shown,
        "python": first.get("python"),
        "platform": first.get("platform"),
        "packages": first.get("packages", {}),
    }


def _is_live(since: float) -> Any:
    return and_(_n.live == 1, _n.seen > since)


def _totals(connection: Connection, endpoint_nos: Sequence[int], since: float) -> dict[int, Row]:
    alive = _is_live(since)
    query = (
        select(
            _n.endpoint_no,
            func.max(_n.seen).label("seen"),
            func.sum(case((alive, 1), else_=0)).label("live"),
            func.sum(case((alive, _n.slots), else_=0)).label("slots"),
            func.sum(case((alive, _n.busy), else_=0)).label("busy"),
        )
        .where(_n.endpoint_no.in_(endpoint_nos))
        .group_by(_n.endpoint_no)
    )
    return {row.endpoint_no: row for row in connection.execute(query)}


def _nodes(
    connection: Connection, endpoint_nos: Sequence[int], since: float, most: int
) -> dict[int, list[dict[str, Any]]]:
    live = case((_is_live(since), 1), else_=0)
    place = func.row_number().over(partition_by=_n.endpoint_no, order_by=(live.desc(), _n.seen.desc(), _n.no))
    ranked = (
        select(
            _n.endpoint_no,
            _n.name,
            _n.slots,
            _n.busy,
            _n.seen,
            _n.since,
            _n.facts,
            _n.vitals,
            case((place == 1, _n.packages), else_="{}").label("packages"),
            live.label("live"),
            place.label("place"),
        )
        .where(_n.endpoint_no.in_(endpoint_nos))
        .subquery()
    )
    query = select(ranked).where(ranked.c.place <= most).order_by(ranked.c.endpoint_no, ranked.c.place)
    found: dict[int, list[dict[str, Any]]] = {}
    for row in connection.execute(query):
        # the node reports its facts itself; they must not override the service's data
        facts = {**json.loads(row.facts), **json.loads(row.vitals)}
        own = {
            "name": row.name,
            "slots": row.slots,
            "busy": row.busy,
            "since": row.since,
            "seen": row.seen,
            "live": bool(row.live),
        }
        if row.place == 1:
            own["packages"] = json.loads(row.packages)
        found.setdefault(row.endpoint_no, []).append({**facts, **own})
    return found


def _queues(connection: Connection, endpoint_nos: Sequence[int]) -> dict[int, dict[str, int]]:
    totals = [func.sum(loads.c[name]) for name in ("live", "sent", "running")]
    query = select(loads.c.endpoint_no, *totals).where(loads.c.endpoint_no.in_(endpoint_nos))
    counted = {no: counts for no, *counts in connection.execute(query.group_by(loads.c.endpoint_no))}
    arrived = by_endpoint(connection, arrivals.c.endpoint_no.in_(endpoint_nos))
    queues = {}
    for endpoint_no in {*counted, *arrived}:
        live, sent, running = map(int, counted.get(endpoint_no, (0, 0, 0)))
        queues[endpoint_no] = {
            TaskState.QUEUED.value: live + arrived.get(endpoint_no, 0) - sent,
            TaskState.DISPATCHED.value: sent - running,
            TaskState.RUNNING.value: running,
        }
    return queues
