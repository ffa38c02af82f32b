"""Whether a bundle that is in no queue and on no node may have been started."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, select

from umbel.protocol.limits import HEARTBEAT_INTERVAL

from ..db.tables import nodes


def last_report_loss(connection: Connection, endpoint_no: int, broker_epoch: float) -> float:
    """Return the last time at which reports of the endpoint may have been lost, or 0.

    Reports can be lost when a worker dies or restarts, and when the broker loses its data.
    """
    query = select(nodes.c.since, nodes.c.seen, nodes.c.live).where(nodes.c.endpoint_no == endpoint_no)
    found = connection.execute(query).all()
    node_loss = max((node.since if node.live else node.seen for node in found), default=0.0)
    last_seen = max((node.seen for node in found), default=0.0)
    return max(node_loss, min(broker_epoch, last_seen + HEARTBEAT_INTERVAL) if last_seen else 0.0)


def may_have_run(bundle: Any, reports_lost: float) -> bool:
    """Return whether a lost bundle may have been started.

    A node lists a received bundle in its next heartbeat, or has reported its end by then. If no node did, and
    no reports can have been lost since the bundle was sent, the bundle was lost in transit and the attempt
    does not count.
    """
    return bundle.node_no is not None or reports_lost > bundle.sent - HEARTBEAT_INTERVAL
