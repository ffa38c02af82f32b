"""The sweeper: detects lost nodes, bundles and broker data, and recovers from the ledger.

Every step is idempotent and may run at any time, in any number of sweepers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import select

from umbel.protocol import names
from umbel.system.clock import monotonic

from .. import dispatch
from ..broker.client import BrokerError
from ..context import Federation
from ..db import free_pages
from ..db.errors import RETRYABLE
from ..db.tables import endpoints, nodes
from ..ledger.cancel import expire, fail_oversized
from ..ledger.node_rows import NodeRow, record_loss
from ..ledger.pruning import Pruner
from ..ledger.retention import delete_old_nodes, delete_old_tasks, expire_idempotency_keys
from ..ledger.totals import TotalsCheck, delete_idle
from ..process import Stop, run_process
from ..provision.cleanup import delete_old_blocks
from ..registry import broker_accounts, call_tokens
from ..registry.endpoints import registered_ids
from .broker_quota import BrokerQuota
from .endpoint_keys import EndpointKeys
from .future_times import correct_future_times
from .lost_bundles import LostBundles, begin_all_epochs
from .node_watch import NodeWatch
from .pace import Pace
from .rollback import RollbackGuard

log = logging.getLogger(__name__)

#: Maximum endpoints refilled per sweep, and nodes marked as lost in one transaction.
BATCH = 500
#: Interval between two looks for nodes at all endpoints, seconds: their news may be lost.
LOOK_INTERVAL = 10.0
#: Maximum batches that retention deletes per sweep.
DELETE_BATCHES = 5


class Sweeper:
    """Runs all recovery steps in order. ``ticks``: a monotonic clock."""

    def __init__(self, fed: Federation, ticks: Callable[[], float] = monotonic):
        self.fed, self._ticks = fed, ticks
        self.watch = NodeWatch(fed, EndpointKeys(fed), ticks)
        self.lost_bundles = LostBundles(fed, self.watch, ticks)
        self.quota = BrokerQuota(fed)
        self._looked = float("-inf")
        self._rollback = RollbackGuard(fed)
        self._times = Pace(lambda: correct_future_times(fed))
        self._totals = Pace(TotalsCheck(fed).check_next)
        self._pruner = Pruner(fed)
        self._pruning = Pace(self._prune)

    def sweep(self) -> None:
        """Run every step once; a failing step does not prevent the others."""
        steps: list[Callable[[], Any]] = [
            self.check_ledger,
            self.restore_broker,
            self.correct_times,
            self.quota.limit_endpoints,
            self.watch_nodes,
            self.find_lost_bundles,
        ]
        steps += [
            self.expire,
            self.fail_oversized,
            self.refill,
            self.delete_old,
            self.prune,
            self.check_totals,
        ]
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
            self.lost_bundles.clear()

    def correct_times(self) -> None:
        """Correct stored times that lie in the future."""
        self._times.run()

    def check_totals(self) -> None:
        """Check the running totals of the next endpoint against the rows they count."""
        self._totals.run()

    def restore_broker(self) -> bool:
        """If the broker was restarted or lost its data, begin with empty keys of all endpoints.

        Bundles that were in it are found by ``lost_bundles``; nodes write what they hold, and push the
        reports that were not applied, when they connect. Returns whether it did something.
        """
        redis = self.fed.broker.redis
        if redis.exists(names.EPOCH_KEY) and not broker_accounts.accounts_lost(self.fed):
            return False
        log.warning("the broker is new, was restarted, or lost data; restoring it from the ledger")
        self.fed.broker.drop_all_endpoints()
        self.fed.broker.clear_function_cache()
        begin_all_epochs(self.fed)
        # endpoints can connect from here on
        broker_accounts.ensure_endpoint_users(self.fed)
        self.watch.interrupted()
        # written last, so that the next sweep starts over if this one fails
        redis.set(names.EPOCH_KEY, str(self.fed.clock()))
        return True

    def watch_nodes(self) -> None:
        """Record what has changed at nodes; mark silent ones as lost."""
        live = self._live_nodes()
        now = self._ticks()
        if now - self._looked >= LOOK_INTERVAL:
            with self.fed.database.read() as connection:
                known = registered_ids(connection)
            live = {**dict.fromkeys(self.fed.broker.node_states.with_nodes(known), ()), **live}
            self._looked = now
        try:
            self.watch.look(sorted(live))
        except (*RETRYABLE, *BrokerError):
            self.watch.interrupted()
            raise
        silent = [(id, row) for id, rows in live.items() for row in self.watch.silent_nodes(id, rows)]
        for start in range(0, len(silent), BATCH):
            self._mark_lost(silent[start : start + BATCH])

    def _live_nodes(self) -> dict[str, Sequence[NodeRow]]:
        """Return the nodes that are considered live, by the id of their endpoint."""
        columns = (nodes.c[name] for name in NodeRow._fields)
        query = select(endpoints.c.id, *columns).join(endpoints, endpoints.c.no == nodes.c.endpoint_no)
        found: dict[str, list[NodeRow]] = {}
        with self.fed.database.read() as connection:
            for row in connection.execute(query.where(nodes.c.live == 1, endpoints.c.deleted.is_(None))):
                found.setdefault(row[0], []).append(NodeRow(*row[1:]))
        return dict(found)

    def _mark_lost(self, silent: Sequence[tuple[str, NodeRow]]) -> None:
        now = self.fed.clock()
        with self.fed.database.write() as connection:
            lost = [each for each in silent if record_loss(connection, each[1].no, each[1].instance, now)]
        for endpoint_id, node in lost:
            message = "endpoint %s: node %s has been silent for %.0f s and is considered lost"
            log.warning(message, endpoint_id, node.name, self.fed.settings.node_lost_after)

    def find_lost_bundles(self) -> None:
        """Send bundles again that are in the ledger only."""
        self.lost_bundles.check()

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
            # the transaction that has the lock also refills the window
            if dispatch.refill_if_free(self.fed, endpoint_no):
                dispatch.catch_up(self.fed, [endpoint_no])

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

    def prune(self) -> None:
        """Delete what deleted tasks have left behind."""
        self._pruning.run()

    def _prune(self) -> None:
        self._pruner.prune(self.fed.clock())
        free_pages.release(self.fed.database)


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
