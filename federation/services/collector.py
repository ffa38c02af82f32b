"""The collector: receives reports from the broker and applies them to the ledger, batch by batch.

Any number of collectors may run. Each batch is one transaction; its reports are deleted from the broker
afterwards.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import select

from umbel.protocol.envelope import Verifier, unseal
from umbel.protocol.errors import ProtocolError
from umbel.protocol.messages import OpenReport, Report

from .. import dispatch
from ..broker.client import BrokerError
from ..config.settings import SettingsError
from ..context import Federation
from ..db.errors import RETRYABLE
from ..db.tables import endpoints
from ..ledger.apply_reports import ApplyResult, apply_reports
from ..process import Stop, run_process

log = logging.getLogger(__name__)

#: Maximum wait for reports, and interval of a collector's heartbeats, seconds.
POLL_INTERVAL = 1.0
#: Redis hash of the collectors: name → JSON {"since", "beat"}, in seconds since 1970.
COLLECTORS_KEY = "umbel:collectors"
#: A collector without heartbeat for this long is dead; its unacknowledged reports are requeued, seconds.
DEAD_AFTER = 30.0
#: Lifetime of a cached public key; reports of a deleted endpoint are rejected after it, seconds.
KEY_SECONDS = 30.0


class Collector:
    """One collector. ``name``: unique among the running collectors."""

    def __init__(self, fed: Federation, name: str):
        self.fed = fed
        self.name = name
        self.since = time.time()
        self.dropped = 0
        self._keys: dict[str, tuple[float, Verifier | None]] = {}
        self._last_heartbeat = 0.0
        # whether this collector's list may contain reports that are not in the ledger
        self._needs_recovery = True

    def run(self, stop: Stop) -> None:
        """Collect until ``stop`` is set; reconnects when the broker or the database is unavailable."""
        while not stop.is_set():
            try:
                self.heartbeat()
                self.collect(POLL_INTERVAL)
            except BrokerError as error:
                log.warning("collector %s: broker unreachable, retrying: %s", self.name, error)
                stop.wait(0.5)
            except RETRYABLE as error:
                log.warning("collector %s: retrying: %s", self.name, error)
                stop.wait(0.5)

    def heartbeat(self) -> None:
        """Write this collector's heartbeat; requeue the reports of dead collectors."""
        now = time.time()
        if now - self._last_heartbeat < POLL_INTERVAL:
            return
        redis = self.fed.broker.redis
        for field, value in redis.hgetall(COLLECTORS_KEY).items():
            name = field.decode()
            if name != self.name and json.loads(value)["beat"] < now - DEAD_AFTER:
                count = self.fed.broker.recover(name)
                log.warning("collector %s: no heartbeat, considered lost; %d reports requeued", name, count)
                redis.hdel(COLLECTORS_KEY, name)
        redis.hset(COLLECTORS_KEY, self.name, json.dumps({"since": self.since, "beat": now}))
        self._last_heartbeat = now

    def collect(self, timeout: float) -> ApplyResult | None:
        """Receive and apply one batch of reports; return the result, or None if there were no reports."""
        if self._needs_recovery:
            # left by an earlier process of this name, or after a failed request or transaction
            self.fed.broker.recover(self.name)
        self._needs_recovery = True
        raw = self.fed.broker.receive_reports(self.name, timeout)
        if not raw:
            self._needs_recovery = False
            return None
        reports = [report for report in map(self._open, raw) if report is not None]
        result = self._apply(reports)
        self.fed.broker.acknowledge_reports(self.name, [*result.groups, *result.updated_tasks])
        self._needs_recovery = False
        dispatch.send(self.fed, result.planned)
        self.dropped += result.dropped
        log.debug(
            "%d reports applied: %d tasks finished, %d outcomes dropped",
            len(reports),
            result.finished,
            result.dropped,
        )
        return result

    def _apply(self, reports: Sequence[OpenReport]) -> ApplyResult:
        try:
            with self.fed.database.write() as connection:
                return apply_reports(self.fed, connection, reports, time.time())
        except RETRYABLE:
            raise
        except Exception:
            # a signed report with invalid content: apply reports one by one to skip only this one
            if len(reports) == 1:
                log.exception(
                    "report %s of endpoint %s has invalid content and is dropped",
                    reports[0].id,
                    reports[0].endpoint,
                )
                return ApplyResult()
        total = ApplyResult()
        for report in reports:
            one = self._apply([report])
            total.groups.update(one.groups)
            total.updated_tasks.update(one.updated_tasks)
            total.planned += one.planned
            total.finished += one.finished
            total.dropped += one.dropped
        return total

    def _open(self, raw: bytes) -> OpenReport | None:
        """Verify one report; return None if it is invalid."""
        try:
            sealed = unseal(raw)
            verifier = self._verifier(Report.sender(sealed))
            if verifier is None:
                raise ProtocolError("the endpoint is not registered")
            return Report.open(verifier, sealed, time.time())
        except ProtocolError as error:
            log.warning("invalid report of %d bytes dropped: %s", len(raw), error)
            return None

    def _verifier(self, endpoint_id: str) -> Verifier | None:
        known = self._keys.get(endpoint_id)
        now = time.monotonic()
        if known is not None and now - known[0] < KEY_SECONDS:
            return known[1]
        query = select(endpoints.c.public_key).where(
            endpoints.c.id == endpoint_id, endpoints.c.deleted.is_(None)
        )
        with self.fed.database.read() as connection:
            key = connection.execute(query).scalar()
        if len(self._keys) > 100_000:
            self._keys.clear()
        verifier = Verifier(key) if key is not None else None
        self._keys[endpoint_id] = now, verifier
        return verifier


def collectors(fed: Federation) -> dict[str, dict[str, Any]]:
    """Return the known collectors: name → {"since", "beat"}."""
    return {
        name.decode(): json.loads(value) for name, value in fed.broker.redis.hgetall(COLLECTORS_KEY).items()
    }


@contextmanager
def _unique_name(fed: Federation) -> Iterator[str]:
    """Reserve a unique name among the collectors of this home: the first free of <host>-0, <host>-1, …

    A restarted collector gets its previous name, and so recovers its unacknowledged reports at once.
    """
    folder = fed.settings.home / "run"
    folder.mkdir(mode=0o700, exist_ok=True)
    for number in range(1000):
        with open(folder / f"collect-{number}.lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
            yield f"{os.uname().nodename}-{number}"
            return
    raise SettingsError(f"1000 collectors already run in {folder}: stop some of them")


def main(argv: Sequence[str] | None = None) -> int:
    """``python -m federation collect``: collect until SIGTERM."""

    def run(fed: Federation, stop: Stop) -> None:
        with _unique_name(fed) as name:
            Collector(fed, name).run(stop)

    return run_process("collect", run, argv)
