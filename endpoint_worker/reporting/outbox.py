"""The outbox: delivers this node's reports to the service once, and writes what the node holds.

Outcomes are signed, written to the spool directory, pushed to the broker, and removed when the service has
taken them, so a node that was disconnected or restarted delivers them later, and a broker that loses its data
loses none. A report that can be pushed at once is written while the broker answers. Outcomes that are ready
at the same time share a report, but no outcome waits for others. Small reports, and what the node writes
about itself, pass between the pieces of a large report; reports about the same bundle keep their order.

One thread does all of it: what it writes depends on the order in which it is written.
"""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from queue import Empty, SimpleQueue

import redis

from umbel.protocol import names
from umbel.protocol.envelope import Signer
from umbel.protocol.messages import Outcome, Report
from umbel.system.threads import GuardedThread

from ..broker.client import BROKER_ERRORS
from ..broker.clock import BrokerClock
from ..broker.fetches import Fetches
from ..broker.outage import Outage
from . import batching
from .delivery import Delivery
from .holdings import Holdings
from .presence import KeysLost, Origin, Presence, View
from .sender import Sender
from .spool import Spool
from .tally import Tally

log = logging.getLogger(__name__)

#: Seconds between attempts while the broker is unreachable: doubled each time up to the maximum.
FIRST_DELAY, MAX_DELAY = 0.05, 5.0
#: Dates of outcomes are corrected if the node's clock differs from the broker's by this much (seconds).
NOTABLE_OFFSET = 1.0


class Outbox:
    """Sends reports of one node through ``client``; ``spool`` is a directory used only by this node.

    ``view``: what the node holds and how it is; ``clock``: the time for signatures.
    """

    def __init__(
        self,
        signer: Signer,
        origin: Origin,
        spool: Path,
        client: redis.Redis,
        view: View,
        clock: BrokerClock | None = None,
    ):
        self._signer, self._origin, self._client, self._view = signer, origin, client, view
        self._clock = clock or BrokerClock()
        self._spool = Spool(spool)
        self._tally = Tally()
        #: the messages of the endpoint's queue that Celery fetches
        self.fetches = Fetches(origin.endpoint, origin.instance, self._wake)
        self._presence = Presence(origin, signer, client, self._clock, self.fetches)
        self._holdings = Holdings(origin, client, self.fetches)
        self._delivery = Delivery(self._spool, Sender(origin, client), self._tally)
        self._queue: SimpleQueue[tuple[str, list[Outcome]] | None] = SimpleQueue()
        #: taken from the queue, then divided into reports, then in the spool
        self._items: list[tuple[str, list[Outcome]]] = []
        self._pending: list[dict[str, list[Outcome]]] = []
        self._adopted: SimpleQueue[list[Path]] = SimpleQueue()
        self._outage = Outage(log, "reports are kept and sent later", first=FIRST_DELAY, longest=MAX_DELAY)
        self._delay = 0.0
        self._closed: bool | None = None
        self._stopped = threading.Event()
        self._thread = GuardedThread(self._run, name="umbel-outbox", stop=self._stopped)
        self._load()

    def start(self) -> None:
        """Start sending; does nothing if it was started before."""
        if self._thread.ident is None:
            self._thread.start()

    def step(self) -> float:
        """Do what is due, instead of ``start``; return the seconds until the next step.

        Something that is added before is a reason for a step at once.
        """
        self._take(0.0)
        self._spool_items()
        self._exchange()
        return self._pause()

    def add(self, bundle_id: str, outcomes: list[Outcome]) -> None:
        """Report these outcomes; never blocks."""
        self._tally.add([bundle_id])
        self._queue.put((bundle_id, outcomes))

    def adopt(self, files: list[Path]) -> None:
        """Send these reports of another node, which were moved into this node's spool, unchanged."""
        self._adopted.put(files)
        self._wake()

    def beat_soon(self) -> None:
        """Write a beat without delay: the broker can be reached, or the node has changed."""
        self._presence.beat_soon()
        self._wake()

    @property
    def unsent(self) -> list[str]:
        """Ids of bundles with an outcome that has not reached the broker."""
        return self._tally.unsent

    @property
    def held(self) -> list[str]:
        """Ids of bundles with an outcome that the service has not taken."""
        return self._tally.held

    def holds(self, bundle_id: str) -> bool:
        """Return whether a bundle has an outcome that the service has not taken."""
        return self._tally.holds(bundle_id)

    @property
    def full(self) -> bool:
        """True while reports can neither be taken nor written to the spool, and too many wait in memory."""
        return self._spool.full

    def renew_lease(self, content: str) -> None:
        """Show other nodes that this one runs."""
        self._spool.renew(content)

    def close(self, timeout: float) -> bool:
        """Send what is left, wait until the service has taken it, and send a goodbye.

        All of it within ``timeout`` seconds; return whether it was done. What the service has not taken
        remains in the spool, and then there is no goodbye: the service finds the reports later. Further
        calls only return the result.
        """
        if self._closed is None:
            self._closed = self._close(timeout)
        return self._closed

    def _close(self, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        self.fetches.stop()
        started = self._thread.ident is not None
        self._holdings.hurry()
        self._wake()
        while started and not self._finished and time.monotonic() < deadline:
            time.sleep(0.01)
        self._stopped.set()
        self._wake()
        if started:
            self._thread.join(max(0.5, deadline - time.monotonic()))
        self._spool.leave()
        if not self._finished or self._thread.is_alive():
            return not (started or self._tally.held)
        try:
            self._presence.goodbye(self._seal({}, goodbye=True))
        except BROKER_ERRORS as error:
            log.warning("cannot send the goodbye of this node to the service: %s", error)
            return False
        return True

    @property
    def _finished(self) -> bool:
        return self._presence.announced and self._holdings.settled and not self._view.held()

    def _wake(self) -> None:
        self._queue.put(None)

    def _run(self) -> None:
        """Send until ``close``. After an unexpected error it runs again and forgets nothing that waits."""
        while True:
            # first: after an unexpected error, something may be left of the previous round
            self._spool_items()
            self._exchange()
            if self._stopped.is_set() and self._queue.empty():
                return
            self._take(self._pause())

    def _load(self, files: list[Path] | None = None) -> None:
        entries = self._spool.load(files)
        self._delivery.load(entries)
        if entries:
            log.info("sending %d reports left by an earlier run", len(entries))

    def _due(self) -> float:
        """When something other than reports is to be written (monotonic clock)."""
        return min(self._presence.due, self._holdings.due(self._delivery.unacknowledged))

    def _pause(self) -> float:
        """Return the seconds until something is due."""
        delay = self._delay
        if self._presence.announced and not self._outage.active:
            due = self._due() - time.monotonic()
            delay = min(delay, due) if self._delivery.waiting or self._spool.unwritten else due
        return max(0.0, delay)

    def _take(self, timeout: float) -> None:
        """Wait for something to do; take what is in the queue, and the reports of other nodes."""
        try:
            item = self._queue.get(timeout=timeout)
            while True:
                if item is not None:
                    self._items.append(item)
                item = self._queue.get_nowait()
        except Empty:
            pass
        while not self._adopted.empty():
            self._load(self._adopted.get())

    def _spool_items(self) -> None:
        """Sign what was taken from the queue and write it to the spool."""
        if self._items:
            new = batching.divide(self._items)
            offset = self._clock.offset
            if abs(offset) >= NOTABLE_OFFSET:
                new = [batching.shifted(batch, offset) for batch in new]
            self._pending += new
            # count the reports that contain the outcomes instead of the calls of ``add``
            items, self._items = self._items, []
            self._tally.add((bundle for batch in new for bundle in batch), (bundle for bundle, _ in items))
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
        online = self._presence.announced and not self._outage.active
        # nothing else may come before it
        next_one = not self._delivery.waiting and len(self._pending) == 1 and time.monotonic() < self._due()
        entry = self._spool.add(data, tuple(batch), keep=online, later=online and next_one)
        del self._pending[0]
        self._delivery.append(entry)

    def _seal(self, outcomes: dict[str, list[Outcome]], *, goodbye: bool = False) -> bytes:
        endpoint, node, instance = self._origin[:3]
        report = Report(endpoint, node, instance, outcomes=outcomes, goodbye=goodbye)
        return report.seal(self._signer, self._clock.now(), names.new_id())

    def _exchange(self) -> None:
        """Write what is due and push what can be pushed now; set the delay before the next attempt."""
        try:
            if not self._presence.announced:
                self._announce()
            beat = self._presence.poll(self._view)
            if beat or time.monotonic() >= self._holdings.due(self._delivery.unacknowledged):
                self._round()
            self._delay = self._delivery.send(lambda: time.monotonic() >= self._due())
        except KeysLost:
            log.warning("the broker has lost the keys of this node; they are written again")
            self._presence.lost()
            self._delay = FIRST_DELAY
        except BROKER_ERRORS as error:
            self._delay = self._outage.failed(error)
            return
        finally:
            self._spool.write_rest()
        self._outage.ended()

    def _announce(self) -> None:
        """Write everything about this node, before anything else."""
        # the description and the beat have dates
        self._clock.measure(self._client)
        # first: what is delivered from now on was fetched after the loss of the keys
        self.fetches.invalidate()
        held = set(self._view.held())
        self._presence.announce(self._view, held)
        self._holdings.announced(held)
        self._delivery.send_again()

    def _round(self) -> None:
        if self._delivery.acknowledge(self._holdings.round(self._view)):
            self._holdings.changed()
