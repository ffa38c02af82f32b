"""Decides which worker nodes are lost, and whether the service knows enough to decide.

Silence counts only while reports could arrive and were read. So a node is considered lost if no heartbeat of
it was applied for ``node_lost_after``, a collector and the broker have worked without interruption for as
long, and all reports that its endpoint had pushed before the decision are applied.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from sqlalchemy import select, update

from umbel.protocol import names

from .. import dispatch
from ..broker.client import BrokerError
from ..context import Federation
from ..db import shared
from ..db.errors import RETRYABLE
from ..db.tables import endpoints, nodes
from ..ledger.node_rows import interruption_codes, tasks_on_node
from ..ledger.requeue import requeue_lost
from . import collector

log = logging.getLogger(__name__)

#: Maximum nodes per query.
BATCH = 500


class Liveness:
    """The decisions of one sweeper."""

    def __init__(self, fed: Federation):
        self.fed = fed
        # endpoint id → reports that collectors had taken when its backlog was noticed, and that must be taken
        self._backlogs: dict[str, tuple[int, int]] = {}

    def mark_lost_nodes(self) -> None:
        """Mark nodes without heartbeat as lost; requeue their calls, or end them with WORKER_LOST."""
        now = time.time()
        if not self._heartbeats_are_current(now):
            return
        last = 0
        overdue = (
            select(nodes.c.no, nodes.c.endpoint_no, nodes.c.name, endpoints.c.id.label("endpoint_id"))
            .join(endpoints, endpoints.c.no == nodes.c.endpoint_no)
            .where(nodes.c.live == 1, nodes.c.seen < now - self.fed.settings.node_lost_after)
            .order_by(nodes.c.no)
            .limit(BATCH)
        )
        applied: dict[str, bool] = {}
        while True:
            with self.fed.database.read() as connection:
                found = connection.execute(overdue.where(nodes.c.no > last)).all()
            for node in found:
                if node.endpoint_id not in applied:
                    applied[node.endpoint_id] = self.reports_are_applied(node.endpoint_id)
                if applied[node.endpoint_id]:
                    self._mark_confined(node, now)
            if len(found) < BATCH:
                return
            last = found[-1].no

    def reports_are_applied(self, endpoint_id: str) -> bool:
        """Return whether all reports that an endpoint had pushed by the first of these calls are applied.

        True at once if none is unread. Otherwise later calls return True when the reports that were unread
        at the first one have been taken, whatever was pushed since.
        """
        taken, waiting = self.fed.broker.report_lists.progress(endpoint_id)
        noticed, needed = self._backlogs.get(endpoint_id, (0, 0))
        if waiting and (endpoint_id not in self._backlogs or taken < noticed):
            self._backlogs[endpoint_id] = taken, taken + waiting
            return False
        if waiting and taken < needed:
            return False
        self._backlogs.pop(endpoint_id, None)
        return True

    def reports_are_current(self, now: float) -> bool:
        """Return whether a collector is reading; otherwise the ledger may lack finished bundles."""
        return self._reading_since(now) < now - self.fed.settings.resend_after

    def _heartbeats_are_current(self, now: float) -> bool:
        """Return whether a collector and the broker have run long enough for a missing heartbeat to count."""
        timeout = self.fed.settings.node_lost_after
        epoch = self.fed.broker.redis.get(names.EPOCH_KEY)
        if epoch is None or float(epoch) > now - timeout:
            return False
        return self._reading_since(now) < now - timeout

    def _reading_since(self, now: float) -> float:
        """Return since when some collector has been reading without interruption; ``now`` if none is."""
        beats = collector.collectors(self.fed).values()
        return min(
            (each["since"] for each in beats if 0 <= now - each["beat"] < 3 * collector.POLL_INTERVAL),
            default=now,
        )

    def _mark_confined(self, node: Any, now: float) -> None:
        """Mark a node as lost; an error that concerns this node only does not protect others."""
        try:
            self._mark_lost(node, now)
        except (*RETRYABLE, *BrokerError):
            raise
        except Exception:
            log.exception("node %s of endpoint %s: unexpected error", node.name, node.endpoint_id)

    def _mark_lost(self, node: Any, now: float) -> None:
        with self.fed.database.write() as connection:
            shared.lock_endpoints(connection, [node.endpoint_no])
            mark = update(nodes).where(
                nodes.c.no == node.no,
                nodes.c.live == 1,
                nodes.c.seen < now - self.fed.settings.node_lost_after,
            )
            if not connection.execute(mark.values(live=0, busy=0)).rowcount:
                return  # a heartbeat arrived in the meantime
            left = tasks_on_node(connection, node.no)
            groups = requeue_lost(connection, left, now, {}, interruption_codes(node.name, left))
            planned = dispatch.refill(self.fed, connection, node.endpoint_no, now)
        lost = "node %s: no heartbeat for %.0f s, considered lost; %d calls requeued or ended"
        log.warning(lost, node.name, self.fed.settings.node_lost_after, len(left))
        dispatch.send(self.fed, planned)
        self.fed.broker.notify(groups)
