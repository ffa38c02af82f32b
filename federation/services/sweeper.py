"""The sweeper: finds what went wrong silently, and mends it from the ledger.

Every step may be run at any time, by any number of sweepers, and does nothing where all is well.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

from sqlalchemy import exists, func, select, tuple_, update
from sqlalchemy.exc import SQLAlchemyError

from umbel.protocol import names
from umbel.protocol.limits import HEARTBEAT_INTERVAL

from .. import dispatch
from ..broker.client import BrokerError
from ..context import Federation
from ..db import shared
from ..db.tables import bundles, endpoints, loads, nodes
from ..ledger.cancel import expire, refuse_wide
from ..ledger.node_rows import held_tasks, taken_away
from ..ledger.requeue import put_back, put_back_lost
from ..ledger.retention import forget_answers, retain
from ..ledger.task_rows import Task, in_bundles
from ..process import Stop, run_process
from ..provision.cleanup import delete_old_blocks
from ..registry import broker_accounts
from . import collector

log = logging.getLogger(__name__)

#: Endpoints refilled, and bundles looked after, in one sweep.
BATCH = 500
#: A heartbeat that is taken in this long after a moment was written after it, seconds.
SPEAKING = 2.0
#: Times that retention may delete a batch in one sweep.
RETAIN_BATCHES = 5


class Sweeper:
    """All the mending steps, in order."""

    def __init__(self, fed: Federation):
        self.fed = fed
        # bundles in no queue and nobody's hands: number → when that was first seen
        self._missing: dict[int, float] = {}

    def sweep(self) -> None:
        """Do every step once; a step that fails does not stop the others."""
        steps: list[Callable[[], Any]] = [
            self.restore_broker,
            self.bury_nodes,
            self.resend,
            self.expire,
            self.refuse,
            self.refill,
            self.retain,
        ]
        for step in steps:
            try:
                step()
            except BrokerError as error:
                log.warning("%s: broker unreachable: %s", step.__name__, error)
            except SQLAlchemyError as error:
                log.warning("%s: database: %s", step.__name__, error)

    def restore_broker(self) -> bool:
        """When the broker lost its data: accounts again, and every bundle it may have lost goes back.

        Returns whether it had.
        """
        redis = self.fed.broker.redis
        if redis.exists(names.EPOCH_KEY):
            return False
        log.warning("the broker is new or has lost its data: setting it up from the ledger")
        broker_accounts.ensure_endpoint_users(self.fed)
        self.fed.broker.forget_functions()
        now = time.time()
        self._resend(now, everywhere=True)
        # written last: a sweeper that dies before starts over
        redis.set(names.EPOCH_KEY, str(now), nx=True)
        return True

    def bury_nodes(self) -> None:
        """Nodes silent for too long are dead; their calls go back, or end with WORKER_LOST."""
        now = time.time()
        if not self._ears_open(now):
            return
        silent = select(nodes.c.no, nodes.c.endpoint_no, nodes.c.name).where(
            nodes.c.live == 1, nodes.c.seen < now - self.fed.settings.node_lost_after
        )
        with self.fed.database.read() as connection:
            found = connection.execute(silent.limit(BATCH)).all()
        for node in found:
            self._bury(node, now)

    def _ears_open(self, now: float) -> bool:
        """Whether silence means something: a collector has listened as long, to a broker up as long."""
        patience = self.fed.settings.node_lost_after
        epoch = self.fed.broker.redis.get(names.EPOCH_KEY)
        if epoch is None or float(epoch) > now - patience:
            return False
        return any(
            beat["beat"] > now - 3 * collector.WAIT and beat["since"] < now - patience
            for beat in collector.collectors(self.fed).values()
        )

    def _bury(self, node: Any, now: float) -> None:
        with self.fed.database.write() as connection:
            shared.lock_endpoints(connection, [node.endpoint_no])
            dead = update(nodes).where(
                nodes.c.no == node.no,
                nodes.c.live == 1,
                nodes.c.seen < now - self.fed.settings.node_lost_after,
            )
            if not connection.execute(dead.values(live=0, busy=0)).rowcount:
                return  # it spoke meanwhile
            left = held_tasks(connection, node.no)
            groups = put_back_lost(connection, left, now, {}, taken_away(node.name, left))
            planned = dispatch.refill(self.fed, connection, node.endpoint_no, now)
        log.warning("node %s is silent for too long: %d calls go back or end", node.name, len(left))
        dispatch.send(self.fed, planned)
        self.fed.broker.wake(groups)

    def resend(self) -> None:
        """Bundles that no queue contains and no live node holds go back."""
        if self._hears(time.time()):
            self._resend(time.time() - self.fed.settings.resend_after)

    def _hears(self, now: float) -> bool:
        """Whether reports are taken in just now: else a bundle may be done and nobody has heard of it."""
        beats = collector.collectors(self.fed).values()
        calm = self.fed.settings.resend_after
        return any(beat["beat"] > now - 3 * collector.WAIT and beat["since"] < now - calm for beat in beats)

    def _resend(self, before: float, *, everywhere: bool = False) -> None:
        """Look after the bundles that were sent, or held for the last time, before that moment.

        Those of endpoints without a live node are left alone unless ``everywhere``: whatever became of
        them, it is early enough to look when somebody is there to take them.
        """
        live = select(nodes.c.endpoint_no).where(nodes.c.live == 1)
        columns = bundles.c.no, bundles.c.id, bundles.c.endpoint_no, bundles.c.sent
        suspects = select(*columns).where(
            bundles.c.sent < before,
            bundles.c.held.is_(None) | (bundles.c.held < before),
            # its node is live and has been silent for as long: the node's burial decides, not we
            ~exists().where(nodes.c.no == bundles.c.node_no, nodes.c.live == 1, nodes.c.seen < before),
        )
        if not everywhere:
            suspects = suspects.where(bundles.c.endpoint_no.in_(live))
        last = (0, 0)
        before_now, self._missing = self._missing, {}
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
                self._resend_at(endpoint_no, list(suspected), before, before_now)

    def _resend_at(
        self, endpoint_no: int, suspected: Sequence[Any], before: float, seen_missing: dict[int, float]
    ) -> None:
        with self.fed.database.read() as connection:
            query = select(endpoints.c.id).where(endpoints.c.no == endpoint_no)
            endpoint_id = connection.execute(query).scalar_one()
        queued = self.fed.broker.queued(endpoint_id)
        now = time.time()
        missing = {b.no: seen_missing.get(b.no, now) for b in suspected if b.id not in queued}
        self._missing.update(missing)
        lost = self._lost(endpoint_no, missing)
        if not lost:
            return
        epoch = self.fed.broker.redis.get(names.EPOCH_KEY)
        wiped = now if epoch is None else float(epoch)
        with self.fed.database.write() as connection:
            shared.lock_endpoints(connection, [endpoint_no])
            still = select(bundles.c.no, bundles.c.sent, bundles.c.node_no).where(
                shared.among(connection, bundles.c.no, lost),
                bundles.c.held.is_(None) | (bundles.c.held < before),
            )
            gone = {row.no: row for row in connection.execute(still)}
            calls = in_bundles(connection, sorted(gone))
            silenced = self._silenced(connection, endpoint_no, wiped)
            run: list[Task] = []
            waited: list[Task] = []
            for call in calls:
                (run if _may_have_run(gone[call.bundle_no], silenced) else waited).append(call)
            put_back(connection, waited, counted=False)
            groups = put_back_lost(connection, run, now, {})
            planned = dispatch.refill(self.fed, connection, endpoint_no, now)
        log.warning(
            "%d bundles of endpoint %s were lost: %d calls go back", len(gone), endpoint_id, len(calls)
        )
        dispatch.send(self.fed, planned)
        self.fed.broker.wake(groups)

    def _lost(self, endpoint_no: int, missing: dict[int, float]) -> list[int]:
        """Those of the missing bundles that no worker can have taken a moment ago.

        A worker names what it took in its next heartbeat. So a bundle is lost when every live node has spoken
        since it was first seen to be missing, and nobody has named it.
        """
        with self.fed.database.read() as connection:
            query = select(func.min(nodes.c.seen)).where(
                nodes.c.endpoint_no == endpoint_no, nodes.c.live == 1
            )
            heard = connection.execute(query).scalar()
        return [no for no, since in missing.items() if heard is None or heard > since + SPEAKING]

    @staticmethod
    def _silenced(connection: Any, endpoint_no: int, wiped: float) -> float:
        """When outcomes of the endpoint may last have been lost, or 0.

        They are when a worker dies or restarts, and when the broker loses its data with reports in it.
        """
        query = select(nodes.c.since, nodes.c.seen, nodes.c.live).where(nodes.c.endpoint_no == endpoint_no)
        found = connection.execute(query).all()
        death = max((node.since if node.live else node.seen for node in found), default=0.0)
        heard = max((node.seen for node in found), default=0.0)
        return max(death, min(wiped, heard + HEARTBEAT_INTERVAL) if heard else 0.0)

    def expire(self) -> None:
        """Calls that have not started before their ``expires`` end."""
        while expire(self.fed, time.time()):
            pass

    def refuse(self) -> None:
        """Calls that no node of their endpoint has slots for end."""
        while refuse_wide(self.fed, time.time()):
            pass

    def refill(self) -> None:
        """Windows that have room although calls wait (as after a crash before sending) are refilled."""
        with self.fed.database.read() as connection:
            query = select(loads.c.endpoint_no).where(loads.c.live > 0).distinct()
            waiting = [
                no for no in connection.execute(query).scalars() if dispatch.wanting(self.fed, connection, no)
            ]
        for endpoint_no in waiting[:BATCH]:
            now = time.time()
            with self.fed.database.write() as connection:
                if not shared.lock_free_endpoint(connection, endpoint_no):
                    continue  # whoever is at it fills the window as well
                planned = dispatch.refill(self.fed, connection, endpoint_no, now)
            dispatch.send(self.fed, planned)

    def retain(self) -> None:
        """Finished tasks older than the retention time go, a few batches in each sweep."""
        now = time.time()
        forget_answers(self.fed, now)
        delete_old_blocks(self.fed, now)
        for _ in range(RETAIN_BATCHES):
            if not retain(self.fed, now):
                return


def _may_have_run(bundle: Any, silenced: float) -> bool:
    """Whether a lost bundle may have been started.

    Who takes a bundle says so in its next heartbeat, or has reported its end by then. When nobody did, and
    nothing can have swallowed what they said since it was sent, then nobody took it: it was lost on the way
    and costs no attempt.
    """
    return bundle.node_no is not None or silenced > bundle.sent - HEARTBEAT_INTERVAL


def main(argv: Sequence[str] | None = None) -> int:
    """``python -m federation sweep``: sweep until SIGTERM."""

    def run(fed: Federation, stop: Stop) -> None:
        sweeper = Sweeper(fed)
        while True:
            sweeper.sweep()
            if stop.wait(fed.settings.sweep_interval):
                return

    return run_process("sweep", run, argv)
