"""The outbox: delivers this node's reports to the service once and in order.

Outcomes are signed, written to the spool directory, pushed to the broker and only then removed, so a node
that was disconnected or restarted delivers them later. Outcomes that are ready at the same time share a
report, but no outcome waits for others.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import NamedTuple

import redis

from umbel.protocol import names
from umbel.protocol.envelope import Signer
from umbel.protocol.messages import Heartbeat, Outcome, Report

from ..broker.client import BROKER_ERRORS

log = logging.getLogger(__name__)

#: A report is closed when its payloads, logs and items reach this many bytes (a single larger outcome gets a
#: report of its own).
REPORT_BYTES = 2 * 1024 * 1024
#: Seconds between attempts while the broker is unreachable: doubled each time up to the maximum.
FIRST_DELAY, MAX_DELAY = 0.05, 5.0
_SUFFIX = ".report"


class Origin(NamedTuple):
    """The sender of reports: the endpoint, the node, and the instance of the node."""

    endpoint: str
    node: str
    instance: str


class _Spooled(NamedTuple):
    path: Path
    data: bytes | None
    bundles: tuple[str, ...]


class Outbox(threading.Thread):
    """Sends reports of one node through ``client``; ``spool`` is a directory used only by this node."""

    def __init__(self, signer: Signer, origin: Origin, spool: Path, client: redis.Redis):
        super().__init__(name="umbel-outbox", daemon=True)
        self._signer = signer
        self._origin = origin
        self._spool = spool
        self._client = client
        self._queue: SimpleQueue[tuple[str, list[Outcome]] | None] = SimpleQueue()
        self._backlog: deque[_Spooled] = deque()
        self._unsent: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._make_heartbeat: Callable[[], Heartbeat] | None = None
        self._delay = 0.0
        self._stopped = False
        spool.mkdir(parents=True, exist_ok=True)
        self._load_spool()

    def add(self, bundle_id: str, outcomes: list[Outcome]) -> None:
        """Report these outcomes; never blocks."""
        with self._lock:
            self._unsent[bundle_id] += 1
        self._queue.put((bundle_id, outcomes))

    def heartbeat(self, make: Callable[[], Heartbeat]) -> None:
        """Report ``make()`` after everything before it is sent; dropped if the broker is unreachable."""
        self._make_heartbeat = make
        self._queue.put(None)

    @property
    def unsent(self) -> list[str]:
        """Ids of bundles with an outcome that has not reached the broker."""
        with self._lock:
            return list(self._unsent)

    def close(self, timeout: float) -> bool:
        """Send what is left and a goodbye within ``timeout`` seconds; return whether everything was sent."""
        deadline = time.monotonic() + timeout
        while self.unsent and time.monotonic() < deadline:
            time.sleep(0.01)
        self._stopped = True
        self._queue.put(None)
        self.join(max(0.5, deadline - time.monotonic()))
        if self.unsent or self.is_alive():
            return False
        try:
            self._push([self._seal({}, goodbye=True)])
        except BROKER_ERRORS as error:
            log.warning("cannot send the goodbye of this node to the service: %s", error)
            return False
        return True

    def run(self) -> None:
        """Send until ``close``."""
        while not self._stopped or not self._queue.empty():
            for batch in self._batches(self._wait()):
                self._spool_report(batch)
            self._send()

    def _load_spool(self) -> None:
        """Load reports that an earlier instance of this node could not send."""
        for path in sorted(self._spool.iterdir()):
            if path.suffix == _SUFFIX:
                self._backlog.append(_Spooled(path, None, ()))
            else:
                path.unlink(missing_ok=True)
        if self._backlog:
            log.info("sending %d reports left by an earlier run", len(self._backlog))

    def _wait(self) -> list[tuple[str, list[Outcome]]]:
        """Wait for something to do; return the available outcomes."""
        items = []
        try:
            item = self._queue.get(timeout=self._delay) if self._backlog else self._queue.get()
            while True:
                if item is not None:
                    items.append(item)
                item = self._queue.get_nowait()
        except Empty:
            return items

    def _batches(self, items: list[tuple[str, list[Outcome]]]) -> list[dict[str, list[Outcome]]]:
        batches: list[dict[str, list[Outcome]]] = []
        size = REPORT_BYTES
        for bundle_id, outcomes in items:
            for outcome in outcomes:
                if size >= REPORT_BYTES:
                    batches.append({})
                    size = 0
                batches[-1].setdefault(bundle_id, []).append(outcome)
                size += len(outcome.payload)
                if outcome.log is not None:
                    size += len(outcome.log.head) + len(outcome.log.tail)
                if outcome.items is not None:
                    size += sum(map(len, outcome.items.items))
        with self._lock:
            # count the reports that contain the outcomes instead of the calls of ``add``
            for batch in batches:
                self._unsent.update(batch.keys())
            for bundle_id, _ in items:
                self._discount(bundle_id)
        return batches

    def _discount(self, bundle_id: str) -> None:
        self._unsent[bundle_id] -= 1
        if self._unsent[bundle_id] <= 0:
            del self._unsent[bundle_id]

    def _spool_report(self, batch: dict[str, list[Outcome]]) -> None:
        """Sign a report and write it to the spool."""
        data = self._seal(batch)
        path = self._spool / f"{time.time_ns():020d}-{names.new_id()[:8]}{_SUFFIX}"
        try:
            draft = path.with_suffix(".tmp")
            draft.write_bytes(data)
            os.replace(draft, path)
        except OSError as error:
            log.error("a report cannot be kept in %s; keeping it in memory only: %s", self._spool, error)
            self._backlog.append(_Spooled(path, data, tuple(batch)))
            return
        # keep the bytes in memory only if they are about to be sent
        self._backlog.append(_Spooled(path, None if self._delay else data, tuple(batch)))

    def _seal(self, outcomes: dict[str, list[Outcome]], *, goodbye: bool = False) -> bytes:
        report = Report(*self._origin, outcomes=outcomes, goodbye=goodbye)
        return report.seal(self._signer, time.time(), names.new_id())

    def _send(self) -> None:
        """Push the backlog, then the heartbeat; on failure increase the delay before the next attempt."""
        make, self._make_heartbeat = self._make_heartbeat, None
        if make is None and not self._backlog:
            return
        try:
            while self._backlog:
                self._send_first()
            if make is not None:
                report = Report(*self._origin, heartbeat=make())
                self._push([report.seal(self._signer, time.time(), names.new_id())])
        except BROKER_ERRORS as error:
            if not self._delay:
                log.warning("cannot send reports to the broker; they are kept and sent later: %s", error)
            self._delay = min(MAX_DELAY, max(FIRST_DELAY, 2 * self._delay))
            return
        if self._delay:
            log.info("the broker accepts reports again")
        self._delay = 0.0

    def _send_first(self) -> None:
        first = self._backlog[0]
        data = first.data
        if data is None:
            try:
                data = first.path.read_bytes()
            except FileNotFoundError:
                log.error("a report is missing from the spool: %s", first.path)
        if data is not None:
            self._push([data])
        self._backlog.popleft()
        try:
            first.path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("report %s was sent but cannot be removed from the spool: %s", first.path, error)
        with self._lock:
            for bundle_id in first.bundles:
                self._discount(bundle_id)

    def _push(self, reports: list[bytes]) -> None:
        pipe = self._client.pipeline(transaction=False)
        pipe.lpush(names.reports_key(self._origin.endpoint), *reports)
        pipe.publish(names.news_channel(self._origin.endpoint), b"")
        pipe.execute()
