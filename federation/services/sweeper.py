"""The sweeper: detects lost nodes, bundles and broker data, and recovers from the ledger.

Every step is idempotent and may run at any time, in any number of sweepers.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

from sqlalchemy import exists, func, select, tuple_

from umbel.protocol import names
from umbel.protocol.limits import HEARTBEAT_INTERVAL

from .. import dispatch
from ..broker.client import BrokerError
from ..context import Federation
from ..db import shared
from ..db.errors import RETRYABLE
from ..db.tables import bundles, endpoints, loads, nodes
from ..ledger.cancel import expire, fail_oversized
from ..ledger.requeue import requeue, requeue_lost
from ..ledger.retention import delete_old_tasks, expire_idempotency_keys
from ..ledger.task_rows import Task, tasks_in_bundles
from ..process import Stop, run_process
from ..provision.cleanup import delete_old_blocks
from ..registry import broker_accounts
from .broker_quota import BrokerQuota
from .liveness import Liveness
from .rollback import RollbackGuard

log = logging.getLogger(__name__)

#: Maximum endpoints refilled per sweep, and bundles or nodes per query.
BATCH = 500
#: A heartbeat applied at least this long after a moment was written after that moment, seconds.
HEARTBEAT_MARGIN = 2.0
#: Maximum batches that retention deletes per sweep.
DELETE_BATCHES = 5


class Sweeper:
    """Runs all recovery steps in order."""

    def __init__(self, fed: Federation):
        self.fed = fed
        self.liveness = Liveness(fed)
        self.quota = BrokerQuota(fed)
        # bundles in no queue and on no node: number → when this was first seen
        self._missing: dict[int, float] = {}
        self._rollback = RollbackGuard(fed)

    def sweep(self) -> None:
        """Run every step once; a failing step does not prevent the others."""
        steps: list[Callable[[], Any]] = [
            self.check_ledger,
            self.restore_broker,
            self.quota.limit_endpoints,
            self.liveness.mark_lost_nodes,
        ]
        steps += [self.resend, self.expire, self.fail_oversized, self.refill, self.delete_old]
        for step in steps:
            try:
                step()
            except (*BrokerError, *RETRYABLE) as error:
                log.warning("sweep step %s: broker or database unavailable: %s", step.__name__, error)
            except Exception:
                log.exception("sweep step %s: unexpected error", step.__name__)

    def check_ledger(self) -> None:
        """Begin a new epoch if the ledger was rolled back."""
        if self._rollback.check():
            self._missing.clear()

    def restore_broker(self) -> bool:
        """If the broker lost its data, restore the accounts and requeue all bundles that may be lost.

        Returns whether it did.
        """
        redis = self.fed.broker.redis
        if redis.exists(names.EPOCH_KEY):
            return False
        log.warning("the broker is new or lost its data; restoring it from the ledger")
        broker_accounts.ensure_endpoint_users(self.fed)
        self.fed.broker.clear_function_cache()
        now = time.time()
        self._resend(now, everywhere=True)
        # written last, so that the next sweep starts over if this one fails
        redis.set(names.EPOCH_KEY, str(now), nx=True)
        return True

    def resend(self) -> None:
        """Requeue bundles that are in no queue and on no live node."""
        if self.liveness.reports_are_current(time.time()):
            self._resend(time.time() - self.fed.settings.resend_after)

    def _resend(self, before: float, *, everywhere: bool = False) -> None:
        """Check the bundles that were sent, or last listed by a node, before the given time.

        Bundles of endpoints without a live node are skipped unless ``everywhere``: they are checked when a
        node is there to run them.
        """
        live = select(nodes.c.endpoint_no).where(nodes.c.live == 1)
        columns = bundles.c.no, bundles.c.id, bundles.c.endpoint_no, bundles.c.sent
        suspects = select(*columns).where(
            bundles.c.sent < before,
            bundles.c.held.is_(None) | (bundles.c.held < before),
            # not if its node is live but overdue: mark_lost_nodes decides about those
            ~exists().where(nodes.c.no == bundles.c.node_no, nodes.c.live == 1, nodes.c.seen < before),
        )
        if not everywhere:
            suspects = suspects.where(bundles.c.endpoint_no.in_(live))
        last = (0, 0)
        missing_before, self._missing = self._missing, {}
        while True:
            page = suspects.where(tuple_(bundles.c.endpoint_no, bundles.c.no) > last)
            with self.fed.database.read() as connection:
                found = connection.execute(
                    page.order_by(bundles.c.endpoint_no, bundles.c.no).limit(BATCH)
                ).all()
            if not found:
                return
            last = found[-1].endpoint_no, found[-1].no
            for endpoint_no, suspected in groupby(found, lambda bundle: bundle.endpoint_no):
                try:
                    self._resend_at(endpoint_no, list(suspected), before, missing_before)
                except (*RETRYABLE, *BrokerError):
                    raise
                except Exception:
                    log.exception("endpoint number %d: its bundles cannot be checked", endpoint_no)

    def _resend_at(
        self, endpoint_no: int, suspected: Sequence[Any], before: float, missing_before: dict[int, float]
    ) -> None:
        with self.fed.database.read() as connection:
            query = select(endpoints.c.id).where(endpoints.c.no == endpoint_no)
            endpoint_id = connection.execute(query).scalar_one()
        if not self.liveness.reports_are_applied(endpoint_id):
            return  # its ends may be among them
        queued = self.fed.broker.queued(endpoint_id)
        now = time.time()
        missing = {b.no: missing_before.get(b.no, now) for b in suspected if b.id not in queued}
        self._missing.update(missing)
        lost = self._lost(endpoint_no, missing)
        if not lost:
            return
        epoch = self.fed.broker.redis.get(names.EPOCH_KEY)
        broker_epoch = now if epoch is None else float(epoch)
        with self.fed.database.write() as connection:
            shared.lock_endpoints(connection, [endpoint_no])
            still = select(bundles.c.no, bundles.c.sent, bundles.c.node_no).where(
                shared.among(connection, bundles.c.no, lost),
                bundles.c.held.is_(None) | (bundles.c.held < before),
            )
            lost_bundles = {row.no: row for row in connection.execute(still)}
            calls = tasks_in_bundles(connection, sorted(lost_bundles))
            reports_lost = self._last_report_loss(connection, endpoint_no, broker_epoch)
            maybe_started: list[Task] = []
            not_started: list[Task] = []
            for call in calls:
                may_have_run = _may_have_run(lost_bundles[call.bundle_no], reports_lost)
                (maybe_started if may_have_run else not_started).append(call)
            requeue(connection, not_started, counted=False)
            groups = requeue_lost(connection, maybe_started, now, {})
            planned = dispatch.refill(self.fed, connection, endpoint_no, now)
        count = len(lost_bundles)
        log.warning(
            "endpoint %s: %d bundles lost; %d calls requeued or ended", endpoint_id, count, len(calls)
        )
        dispatch.send(self.fed, planned)
        self.fed.broker.notify(groups)

    def _lost(self, endpoint_no: int, missing: dict[int, float]) -> list[int]:
        """Return the missing bundles that no worker can have just received.

        A worker lists received bundles in its next heartbeat. So a bundle is lost if every live node has sent
        a heartbeat since the bundle was first missing, and none of them lists it.
        """
        with self.fed.database.read() as connection:
            query = select(func.min(nodes.c.seen)).where(
                nodes.c.endpoint_no == endpoint_no, nodes.c.live == 1
            )
            last_seen = connection.execute(query).scalar()
        return [
            no for no, since in missing.items() if last_seen is None or last_seen > since + HEARTBEAT_MARGIN
        ]

    @staticmethod
    def _last_report_loss(connection: Any, endpoint_no: int, broker_epoch: float) -> float:
        """Return the last time at which reports of the endpoint may have been lost, or 0.

        Reports can be lost when a worker dies or restarts, and when the broker loses its data.
        """
        query = select(nodes.c.since, nodes.c.seen, nodes.c.live).where(nodes.c.endpoint_no == endpoint_no)
        found = connection.execute(query).all()
        node_loss = max((node.since if node.live else node.seen for node in found), default=0.0)
        last_seen = max((node.seen for node in found), default=0.0)
        return max(node_loss, min(broker_epoch, last_seen + HEARTBEAT_INTERVAL) if last_seen else 0.0)

    def expire(self) -> None:
        """End calls that have not started by their ``expires`` time."""
        while expire(self.fed, time.time()):
            pass

    def fail_oversized(self) -> None:
        """End calls that need more slots than any node of their endpoint has."""
        while fail_oversized(self.fed, time.time()):
            pass

    def refill(self) -> None:
        """Refill windows that have room although calls wait, for example after a crash before sending."""
        with self.fed.database.read() as connection:
            query = select(loads.c.endpoint_no).where(loads.c.live > 0).distinct()
            waiting = [
                no
                for no in connection.execute(query).scalars()
                if dispatch.needs_refill(self.fed, connection, no)
            ]
        for endpoint_no in waiting[:BATCH]:
            now = time.time()
            with self.fed.database.write() as connection:
                if not shared.lock_free_endpoint(connection, endpoint_no):
                    continue  # the transaction that has the lock also refills the window
                planned = dispatch.refill(self.fed, connection, endpoint_no, now)
            dispatch.send(self.fed, planned)

    def delete_old(self) -> None:
        """Delete finished tasks older than the retention time, a few batches per sweep."""
        now = time.time()
        expire_idempotency_keys(self.fed, now)
        delete_old_blocks(self.fed, now)
        for _ in range(DELETE_BATCHES):
            if not delete_old_tasks(self.fed, now):
                return


def _may_have_run(bundle: Any, reports_lost: float) -> bool:
    """Return whether a lost bundle may have been started.

    A node lists a received bundle in its next heartbeat, or has reported its end by then. If no node did, and
    no reports can have been lost since the bundle was sent, the bundle was lost in transit and the attempt
    does not count.
    """
    return bundle.node_no is not None or reports_lost > bundle.sent - HEARTBEAT_INTERVAL


def main(argv: Sequence[str] | None = None) -> int:
    """``python -m federation sweep``: sweep until SIGTERM."""

    def run(fed: Federation, stop: Stop) -> None:
        sweeper = Sweeper(fed)
        while True:
            sweeper.sweep()
            if stop.wait(fed.settings.sweep_interval):
                return

    return run_process("sweep", run, argv)
