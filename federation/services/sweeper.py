"""The sweeper: detects lost nodes, bundles and broker data, and recovers from the ledger.

Every step is idempotent and may run at any time, in any number of sweepers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

from sqlalchemy import exists, func, select, tuple_

from umbel.protocol import names

from .. import dispatch
from ..broker.client import BrokerError
from ..context import Federation
from ..db import shared
from ..db.errors import RETRYABLE
from ..db.tables import bundles, endpoints, nodes
from ..ledger.cancel import expire, fail_oversized
from ..ledger.requeue import requeue, requeue_lost
from ..ledger.retention import delete_old_nodes, delete_old_tasks, expire_idempotency_keys
from ..ledger.task_rows import tasks_in_bundles
from ..ledger.totals import TotalsCheck, delete_idle
from ..process import Stop, run_process
from ..provision.cleanup import delete_old_blocks
from ..registry import broker_accounts, call_tokens
from .broker_quota import BrokerQuota
from .future_times import correct_future_times
from .liveness import Liveness
from .lost_reports import loss_while_offline, maybe_started, remember_if_offline
from .pace import Pace
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
        self._times = Pace(lambda: correct_future_times(fed))
        self._totals = Pace(TotalsCheck(fed).check_next)

    def sweep(self) -> None:
        """Run every step once; a failing step does not prevent the others."""
        steps: list[Callable[[], Any]] = [
            self.check_ledger,
            self.restore_broker,
            self.correct_times,
            self.quota.limit_endpoints,
            self.liveness.mark_lost_nodes,
        ]
        steps += [self.resend, self.expire, self.fail_oversized, self.refill, self.delete_old]
        steps += [self.check_totals]
        for step in steps:
            self._run(step)

    def close(self) -> None:
        """Remember the state of the ledger: a backup that is restored before the next start is noticed."""
        self._run(self.check_ledger)

    def _run(self, step: Callable[[], Any]) -> None:
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

    def correct_times(self) -> None:
        """Correct stored times that lie in the future."""
        self._times.run()

    def check_totals(self) -> None:
        """Check the running totals of the next endpoint against the rows they count."""
        self._totals.run()

    def restore_broker(self) -> bool:
        """If the broker lost its data, restore the accounts and requeue all bundles that may be lost.

        Returns whether it did.
        """
        redis = self.fed.broker.redis
        if redis.exists(names.EPOCH_KEY):
            broker_accounts.restore_if_lost(self.fed)
            return False
        log.warning("the broker is new or lost its data; restoring it from the ledger")
        broker_accounts.ensure_endpoint_users(self.fed)
        self.fed.broker.clear_function_cache()
        now = self.fed.clock()
        self._resend(now, now)
        # written last, so that the next sweep starts over if this one fails
        redis.set(names.EPOCH_KEY, str(now), nx=True)
        return True

    def resend(self) -> None:
        """Requeue bundles that are in no queue and on no live node."""
        if self.liveness.reports_are_current(self.fed.clock()):
            epoch = self.fed.broker.redis.get(names.EPOCH_KEY)
            self._resend(self.fed.clock() - self.fed.settings.resend_after, float(epoch or 0.0))

    def _resend(self, before: float, broker_lost: float) -> None:
        """Check the bundles that were sent, or last listed by a node, before the given time.

        Bundles of endpoints without a live node are skipped unless they were sent before the broker last lost
        its data, at ``broker_lost``: the others are checked when a node is there to run them.
        """
        live = select(nodes.c.endpoint_no).where(nodes.c.live == 1)
        columns = bundles.c.no, bundles.c.id, bundles.c.endpoint_no, bundles.c.sent
        suspects = select(*columns).where(
            bundles.c.sent < before,
            bundles.c.held.is_(None) | (bundles.c.held < before),
            # not if its node is live but overdue: mark_lost_nodes decides about those
            ~exists().where(nodes.c.no == bundles.c.node_no, nodes.c.live == 1, nodes.c.seen < before),
        )
        suspects = suspects.where(bundles.c.endpoint_no.in_(live) | (bundles.c.sent < broker_lost))
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
        now = self.fed.clock()
        missing = {b.no: missing_before.get(b.no, now) for b in suspected if b.id not in queued}
        self._missing.update(missing)
        epoch = self.fed.broker.redis.get(names.EPOCH_KEY)
        broker_epoch = now if epoch is None else float(epoch)
        if missing and epoch is None:
            remember_if_offline(self.fed, endpoint_no, broker_epoch)
        lost = self._lost(endpoint_no, missing, now)
        if not lost:
            return
        while_offline = loss_while_offline(self.fed, endpoint_no)
        with self.fed.database.write() as connection:
            shared.lock_endpoints(connection, [endpoint_no])
            still = select(bundles.c.no, bundles.c.sent, bundles.c.node_no).where(
                shared.among(connection, bundles.c.no, lost),
                bundles.c.held.is_(None) | (bundles.c.held < before),
            )
            lost_bundles = {row.no: row for row in connection.execute(still)}
            calls = tasks_in_bundles(connection, sorted(lost_bundles))
            started = maybe_started(connection, endpoint_no, lost_bundles, broker_epoch, while_offline)
            requeue(connection, [c for c in calls if c.bundle_no not in started], counted=False)
            groups = requeue_lost(connection, [c for c in calls if c.bundle_no in started], now, {})
            planned = dispatch.refill(self.fed, connection, endpoint_no, now)
        count = len(lost_bundles)
        log.warning(
            "endpoint %s: %d bundles lost; %d calls requeued or ended", endpoint_id, count, len(calls)
        )
        dispatch.send(self.fed, planned)
        self.fed.broker.notify(groups)

    def _lost(self, endpoint_no: int, missing: dict[int, float], now: float) -> list[int]:
        """Return the missing bundles that no worker can have just received.

        A worker lists received bundles in its next heartbeat. So a bundle is lost if every live node has sent
        a heartbeat since the bundle was first missing, and none of them lists it. Without a live node, a node
        whose first heartbeat has not been applied may have received it, so it must have been missing for
        ``resend_after``.
        """
        with self.fed.database.read() as connection:
            query = select(func.min(nodes.c.seen)).where(
                nodes.c.endpoint_no == endpoint_no, nodes.c.live == 1
            )
            last_seen = connection.execute(query).scalar()
        if last_seen is None:
            return [no for no, since in missing.items() if since < now - self.fed.settings.resend_after]
        return [no for no, since in missing.items() if last_seen > since + HEARTBEAT_MARGIN]

    def expire(self) -> None:
        """End calls that have not started by their ``expires`` time."""
        while expire(self.fed, self.fed.clock()):
            pass

    def fail_oversized(self) -> None:
        """End calls that need more slots than any node of their endpoint has."""
        while fail_oversized(self.fed, self.fed.clock()):
            pass

    def refill(self) -> None:
        """Refill windows that have room although calls wait, for example after a crash before sending."""
        with self.fed.database.read() as connection:
            waiting = dispatch.endpoints_to_refill(self.fed, connection)
        for endpoint_no in waiting[:BATCH]:
            now = self.fed.clock()
            with self.fed.database.write() as connection:
                if not shared.lock_free_endpoint(connection, endpoint_no):
                    continue  # the transaction that has the lock also refills the window
                planned = dispatch.refill(self.fed, connection, endpoint_no, now)
            dispatch.send(self.fed, planned)

    def delete_old(self) -> None:
        """Delete finished tasks older than the retention time, a few batches per sweep."""
        now = self.fed.clock()
        expire_idempotency_keys(self.fed, now)
        call_tokens.delete_expired(self.fed, now)
        delete_old_blocks(self.fed, now)
        delete_old_nodes(self.fed, now)
        delete_idle(self.fed)
        for _ in range(DELETE_BATCHES):
            if not delete_old_tasks(self.fed, now):
                return


def main(argv: Sequence[str] | None = None) -> int:
    """``python -m federation sweep``: sweep until SIGTERM."""

    def run(fed: Federation, stop: Stop) -> None:
        sweeper = Sweeper(fed)
        while True:
            sweeper.sweep()
            if stop.wait(fed.settings.sweep_interval):
                sweeper.close()
                return

    return run_process("sweep", run, argv)
