"""Whether a bundle that is in no queue and on no node may have been started."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, select

from umbel.protocol.limits import HEARTBEAT_INTERVAL

from ..context import Federation
from ..db.tables import nodes

#: Redis hash: number of an endpoint without a live node when the broker lost its data → the last time at
#: which its reports may have been lost, seen from that moment.
OFFLINE_KEY = "umbel:offline"


def last_report_loss(connection: Connection, endpoint_no: int, broker_epoch: float) -> float:
    """Return the last time at which reports of the endpoint may have been lost, or 0.

    Reports can be lost when a worker dies or restarts, and when the broker loses its data.
    """
    query = select(nodes.c.since, nodes.c.seen, nodes.c.live).where(nodes.c.endpoint_no == endpoint_no)
    found = connection.execute(query).all()
    node_loss = max((node.since if node.live else node.seen for node in found), default=0.0)
    last_seen = max((node.seen for node in found), default=0.0)
    return max(node_loss, min(broker_epoch, last_seen + HEARTBEAT_INTERVAL) if last_seen else 0.0)


def remember_if_offline(fed: Federation, endpoint_no: int, broker_epoch: float) -> None:
    """Remember the last loss of reports of an endpoint if it has no live node when the broker lost its data.

    Its bundles are requeued only later, when no new node lists them. By then nodes may have started, which
    have not received these bundles and must not look like nodes that lost reports about them.
    """
    with fed.database.read() as connection:
        live = select(nodes.c.no).where(nodes.c.endpoint_no == endpoint_no, nodes.c.live == 1).limit(1)
        if connection.execute(live).first() is not None:
            return
        loss = last_report_loss(connection, endpoint_no, broker_epoch)
    fed.broker.redis.hset(OFFLINE_KEY, str(endpoint_no), str(loss))


def loss_while_offline(fed: Federation, endpoint_no: int) -> float | None:
    """Return what ``remember_if_offline`` stored, for bundles sent before the broker lost its data."""
    found = fed.broker.redis.hget(OFFLINE_KEY, str(endpoint_no))
    return None if found is None else float(found)


def maybe_started(
    connection: Connection,
    endpoint_no: int,
    lost: Mapping[int, Any],
    broker_epoch: float,
    while_offline: float | None,
) -> set[int]:
    """Return which of the lost bundles, by number, may have been started.

    ``while_offline``: see ``loss_while_offline``. A node lists a received bundle in its next heartbeat, or
    has reported its end by then. If no node did, and no reports can have been lost since it was sent, the
    bundle was lost in transit and the attempt does not count.
    """
    last = last_report_loss(connection, endpoint_no, broker_epoch)
    found = set()
    for no, bundle in lost.items():
        offline = while_offline is not None and bundle.sent < broker_epoch
        reports_lost = (while_offline or 0.0) if offline else last
        if bundle.node_no is not None or reports_lost > bundle.sent - HEARTBEAT_INTERVAL:
            found.add(no)
    return found
