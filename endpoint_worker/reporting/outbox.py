"""The outbox: delivers this node's reports to the service once.

Outcomes are signed, written to the spool directory, pushed to the broker and only then removed, so a node
that was disconnected or restarted delivers them later. Outcomes that are ready at the same time share a
report, but no outcome waits for others. Heartbeats and small reports pass between the pieces of a large one;
reports about the same bundle keep their order.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import NamedTuple

import redis

from umbel.protocol import names
from umbel.protocol.envelope import Signer, unverified_header
from umbel.protocol.limits import MAX_UNREAD_REPORTS
from umbel.protocol.messages import Heartbeat, Outcome, Report
from umbel.system.threads import GuardedThread

from ..broker.client import BROKER_ERRORS
from ..broker.clock import BrokerClock
from ..broker.outage import Outage
from . import batching
from .backlog import Backlog
from .sender import LOOK_INTERVAL, Sender
from .spool import Entry, Spool

log = logging.getLogger(__name__)

#: Seconds between attempts while the broker is unreachable: doubled each time up to the maximum.
FIRST_DELAY, MAX_DELAY = 0.05, 5.0
#: Dates of outcomes are corrected if the node's clock differs from the broker's by this much (seconds).
NOTABLE_OFFSET = 1.0
#: A report that cannot be read from the spool is tried again after this long (seconds).
UNREADABLE_DELAY = 60.0


class Origin(NamedTuple):
    """The sender of reports: the endpoint, the node, the instance of the node, and its incarnation."""

    endpoint: str
    node: str
    instance: str
    incarnation: int = 0


class Outbox:
    """Sends reports of one node through ``client``; ``spool`` is a directory used only by this node.

    ``clock``: the time for signatures.
    """

    def __init__(
        self,
        signer: Signer,
        origin: Origin,
        spool: Path,
        client: redis.Redis,
        clock: BrokerClock | None = None,
    ):
        self._signer = signer
        self._origin = origin
        self._clock = clock or BrokerClock()
        self._spool = Spool(spool)
        self._sender = Sender(origin.endpoint, client)
        self._queue: SimpleQueue[tuple[str, list[Outcome]] | None] = SimpleQueue()
        #: taken from the queue, then divided into reports, then in the spool
        self._items: list[tuple[str, list[Outcome]]] = []
        self._pending: list[dict[str, list[Outcome]]] = []
        self._backlog = Backlog()
        self._unsent: Counter[str] = Counter()
        self._adopted: SimpleQueue[list[Path]] = SimpleQueue()
        self._lock = threading.Lock()
        self._make_heartbeat: Callable[[], Heartbeat] | None = None
        self._outage = Outage(log, "reports are kept and sent later", first=FIRST_DELAY, longest=MAX_DELAY)
        self._delay = 0.0
        self._began = time.monotonic_ns() - 1
        self._stopped = threading.Event()
        self._thread = GuardedThread(self._run, name="umbel-outbox", stop=self._stopped)
        self._load(self._spool.load())

    def start(self) -> None:
        """Start sending; does nothing if it was started before."""
        if self._thread.ident is None:
            self._thread.start()

    def add(self, bundle_id: str, outcomes: list[Outcome]) -> None:
        """Report these outcomes; never blocks."""
        with self._lock:
            self._unsent[bundle_id] += 1
        self._queue.put((bundle_id, outcomes))

    def adopt(self, files: list[Path]) -> None:
        """Send these reports of another node, which were moved into this node's spool, unchanged."""
        self._adopted.put(files)
        self._queue.put(None)

    def heartbeat(self, make: Callable[[], Heartbeat]) -> None:
        """Report ``make()`` soon; dropped if the broker is unreachable."""
        self._make_heartbeat = make
        self._queue.put(None)

    @property
    def unsent(self) -> list[str]:
        """Ids of bundles with an outcome that has not reached the broker."""
        with self._lock:
            return list(self._unsent)

    @property
    def full(self) -> bool:
        """True while reports can neither be sent nor written to the spool, and too many wait in memory."""
        return self._spool.full

    def renew_lease(self, content: str) -> None:
        """Show other nodes that this one runs."""
        self._spool.renew(content)

    def close(self, timeout: float) -> bool:
        """Send what is left and a goodbye within ``timeout`` seconds; return whether everything was sent."""
        deadline = time.monotonic() + timeout
        while self.unsent and time.monotonic() < deadline:
            time.sleep(0.01)
        self._stopped.set()
        self._queue.put(None)
        if self._thread.ident is not None:
            self._thread.join(max(0.5, deadline - time.monotonic()))
        self._spool.release()
        if self.unsent or self._thread.is_alive():
            return False
        try:
            self._sender.push(self._seal({}, goodbye=True))
        except BROKER_ERRORS as error:
            log.warning("cannot send the goodbye of this node to the service: %s", error)
            return False
        return True

    def _run(self) -> None:
        """Send until ``close``. After an unexpected error it runs again and forgets nothing that waits."""
        while True:
            # first: after an unexpected error, something may be left of the previous round
            self._spool_items()
            self._send()
            if self._stopped.is_set() and self._queue.empty():
                return
            self._wait()
            while not self._adopted.empty():
                self._load(self._spool.load(self._adopted.get()))

    def _load(self, entries: list[Entry]) -> None:
        for entry in entries:
            self._backlog.append(entry)
        with self._lock:
            self._unsent.update(bundle for entry in entries for bundle in entry.bundles)
        if entries:
            log.info("sending %d reports left by an earlier run", len(entries))

    def _wait(self) -> None:
        """Wait for something to do; take what is in the queue."""
        try:
            item = (
                self._queue.get(timeout=self._delay)
                if self._backlog or self._spool.unwritten
                else self._queue.get()
            )
            while True:
                if item is not None:
                    self._items.append(item)
                item = self._queue.get_nowait()
        except Empty:
            return

    def _spool_items(self) -> None:
        """Sign what was taken from the queue and write it to the spool."""
        if self._spool.unwritten:
            self._spool.write_rest()
        if self._items:
            new = batching.divide(self._items)
            offset = self._clock.offset
            if abs(offset) >= NOTABLE_OFFSET:
                new = [batching.shifted(batch, offset) for batch in new]
            self._pending += new
            # count the reports that contain the outcomes instead of the calls of ``add``
            items, self._items = self._items, []
            with self._lock:
                self._unsent.update(bundle for batch in new for bundle in batch)
                for bundle_id, _ in items:
                    self._discount(bundle_id)
        while self._pending:
            self._spool_first()

    def _spool_first(self) -> None:
        batch = self._pending[0]
        try:
            data = self._seal(batch)
        except Exception as error:
            # a bug in one outcome must not cost the others, nor leave its call without an outcome
            if len(batch) > 1:
                self._pending[:1] = [{bundle: outcomes} for bundle, outcomes in batch.items()]
                return
            log.exception("the outcomes of bundle %s cannot be written; they are reported as lost", *batch)
            data = self._seal(batching.lost(batch, error))
        entry = self._spool.add(data, tuple(batch), keep=not self._outage.active)
        del self._pending[0]
        self._backlog.append(entry)

    def _discount(self, bundle_id: str) -> None:
        self._unsent[bundle_id] -= 1
        if self._unsent[bundle_id] <= 0:
            del self._unsent[bundle_id]

    def _seal(self, outcomes: dict[str, list[Outcome]], *, goodbye: bool = False) -> bytes:
        return self._sealed(replace(self._report(), outcomes=outcomes, goodbye=goodbye))

    def _sealed(self, report: Report) -> bytes:
        return report.seal(self._signer, self._clock.now(), names.new_id())

    def _send(self) -> None:
        """Push what can be pushed now; set the delay before the next attempt."""
        make, self._make_heartbeat = self._make_heartbeat, None
        if make is None and not self._backlog:
            return
        try:
            # a service that reads slowly must still see that this node lives
            if make is not None and not self._sender.blocked(2 * MAX_UNREAD_REPORTS):
                self._sender.push(self._sealed(replace(self._report(), heartbeat=make())))
            self._delay = self._send_backlog()
        except BROKER_ERRORS as error:
            self._delay = self._outage.failed(error)
            return
        self._outage.ended()

    def _report(self) -> Report:
        """Return an empty report with the run of this node, and its place in this run, which only grows."""
        endpoint, node, instance = self._origin[:3]
        order = time.monotonic_ns() - self._began
        return Report(endpoint, node, instance, incarnation=self._origin.incarnation, order=order)

    def _send_backlog(self) -> float:
        """Push small reports and one piece of a large one; return the delay before the next ones."""
        while (entry := self._backlog.next(self._sender.is_large)) is not None:
            if self._sender.blocked():
                return LOOK_INTERVAL
            try:
                data = self._spool.read(entry)
            except OSError as error:
                if not self._set_aside(entry, error):
                    self._done(entry)
                continue
            if not self._sender.is_large(entry.size):
                self._sender.push(data)
            elif not self._sender.advance(str(unverified_header(data)["id"]), data):
                return 0.0
            self._done(entry)
            if self._make_heartbeat is not None:
                return 0.0
        return UNREADABLE_DELAY

    def _set_aside(self, entry: Entry, error: OSError) -> bool:
        """Send others before a report that cannot be read; return False if it is gone."""
        if isinstance(error, FileNotFoundError):
            log.error("a report is missing from the spool: %s", entry.path)
            return False
        log.error("report %s cannot be read from the spool: %s; trying again later", entry.path, error)
        self._backlog.postpone(entry, UNREADABLE_DELAY)
        return True

    def _done(self, entry: Entry) -> None:
        """Forget a report that was sent."""
        self._backlog.remove(entry)
        self._spool.remove(entry)
        with self._lock:
            for bundle_id in entry.bundles:
                self._discount(bundle_id)
