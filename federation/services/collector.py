"""The collector: reads reports from the broker and applies them to the ledger, batch by batch.

It also records nodes that announce themselves.

Every endpoint has its own list of reports, and endpoints take turns. Any number of collectors may run. Each
batch is one transaction; its reports are removed from the broker afterwards. A report with invalid content is
rejected; any other error leaves the reports of that endpoint where they are.
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

from redis.exceptions import ResponseError

from umbel.protocol.messages import OpenReport

from .. import dispatch
from ..broker.client import BrokerError
from ..broker.report_lists import READ_ENDPOINTS, NewsListener
from ..config.settings import SettingsError
from ..context import Federation
from ..db.errors import RETRYABLE, DatabaseRefused
from ..ledger.apply_reports import ApplyResult, apply_reports
from ..ledger.node_rows import TooManyNodes
from ..process import Stop, run_process
from ..registry.endpoints import registered_ids
from .endpoint_keys import EndpointKeys
from .node_watch import NodeWatch
from .report_reader import BATCH_OUTCOMES, Batch, ReportReader

log = logging.getLogger(__name__)

#: Maximum wait for news, interval of a collector's heartbeats, and of its looks at all lists, seconds.
POLL_INTERVAL = 1.0
#: Redis hash of the collectors: name → JSON {"beat"}, in seconds since 1970.
COLLECTORS_KEY = "umbel:collectors"
#: A collector without heartbeat for this long is dead, seconds.
DEAD_AFTER = 30.0
#: Pause before reports that could not be applied because of a bug are tried again, seconds: doubled each time
#: up to the maximum.
FIRST_PAUSE, MAX_PAUSE = 1.0, 60.0


class Collector:
    """One collector. ``name``: unique among the running collectors."""

    def __init__(self, fed: Federation, name: str):
        self.fed = fed
        self.name = name
        self.dropped = 0
        keys = EndpointKeys(fed)
        self._reader = ReportReader(fed, keys)
        self.watch = NodeWatch(fed, keys)
        self._news = NewsListener(fed.broker)
        # endpoints with unread reports, in the order of their turns
        self._turns: dict[str, None] = {}
        # endpoints whose reports cannot be applied because of a bug: (monotonic time of the next try, pause)
        self._paused: dict[str, tuple[float, float]] = {}
        self._last_look = 0.0
        self._last_heartbeat = float("-inf")

    def run(self, stop: Stop) -> None:
        """Collect until ``stop`` is set, whatever happens."""
        try:
            while not stop.is_set():
                try:
                    self.heartbeat()
                    self.collect(POLL_INTERVAL)
                    continue
                except BrokerError as error:
                    log.warning("collector %s: broker unreachable, retrying: %s", self.name, error)
                except RETRYABLE as error:
                    log.warning("collector %s: retrying: %s", self.name, error)
                except Exception:  # noqa: B902 - every endpoint depends on this loop
                    log.exception("collector %s: unexpected error, continuing", self.name)
                self._last_look = 0.0
                stop.wait(0.5)
        finally:
            self._news.close()

    def heartbeat(self) -> None:
        """Write this collector's heartbeat; remove the entries of dead collectors."""
        if time.monotonic() - self._last_heartbeat < POLL_INTERVAL:
            return
        now, redis = self.fed.clock(), self.fed.broker.redis
        for field, value in redis.hgetall(COLLECTORS_KEY).items():
            name = field.decode()
            if name != self.name and json.loads(value)["beat"] < now - DEAD_AFTER:
                log.warning("collector %s: no heartbeat, considered lost", name)
                redis.hdel(COLLECTORS_KEY, name)
        try:
            redis.hset(COLLECTORS_KEY, self.name, json.dumps({"beat": now}))
        except ResponseError as error:
            # a full Redis: applying reports makes room
            log.warning("collector %s: the broker rejects the heartbeat: %s", self.name, error)
        self._last_heartbeat = time.monotonic()

    def look(self) -> None:
        """Find all endpoints with unread reports, whether or not there was news of them."""
        with self.fed.database.read() as connection:
            known = registered_ids(connection)
        self._last_look = time.monotonic()
        self._turns.update(dict.fromkeys(self.fed.broker.report_lists.waiting(known)))

    def collect(self, timeout: float) -> ApplyResult | None:
        """Wait for news, apply one batch of reports; return the result, or None if there were no reports."""
        news = self._news.wait(0.0 if self._turns else timeout)
        self._turns.update((each, None) for each in sorted(news.reports) if self._reader.known(each))
        self.watch.look(sorted(each for each in news.nodes if self._reader.known(each)))
        if time.monotonic() - self._last_look >= POLL_INTERVAL:
            self.look()
        chosen = self._chosen()
        lists = self.fed.broker.report_lists
        found = lists.read(self.name, chosen) if chosen else []
        batches = [self._reader.open(unread, BATCH_OUTCOMES // len(found)) for unread in found]
        if not batches:
            return None
        result = self._apply(batches)
        self._reader.reject(batches)
        changed = [*result.groups, *result.updated_tasks]
        lists.remove(self.name, [(batch.unread, batch.count) for batch in batches], changed)
        done = [key for batch in batches for key in batch.done_keys]
        if done:
            self.fed.broker.redis.delete(*done)
        for batch in batches:
            if batch.unread.waiting > batch.count:
                self._turns[batch.unread.endpoint_id] = None
        dispatch.after_commit(self.fed, result.planned, result.endpoint_nos)
        self.dropped += result.dropped
        return result

    def close(self) -> None:
        """Close the connection for news."""
        self._news.close()

    def _chosen(self) -> list[str]:
        """Take the endpoints whose turn it is."""
        now = time.monotonic()
        chosen: list[str] = []
        for endpoint_id in list(self._turns):
            if len(chosen) == READ_ENDPOINTS:
                break
            del self._turns[endpoint_id]
            if self._paused.get(endpoint_id, (0.0, 0.0))[0] <= now:
                chosen.append(endpoint_id)
        return chosen

    def _apply(self, batches: Sequence[Batch]) -> ApplyResult:
        """Apply the reports of some endpoints; if that fails, of each endpoint, then each report."""
        try:
            result = self._transaction([report for batch in batches for report in batch.reports])
        except RETRYABLE:
            raise
        except Exception:  # noqa: B902 - one endpoint's fault must not become that of others
            if len(batches) == 1:
                return self._apply_singly(batches[0])
            total = ApplyResult()
            for batch in batches:
                total.add(self._apply([batch]))
            return total
        for batch in batches:
            batch.count = len(batch.opened)
            self._paused.pop(batch.unread.endpoint_id, None)
        return result

    def _apply_singly(self, batch: Batch) -> ApplyResult:
        """Apply an endpoint's reports one by one, up to the first one that fails because of a bug."""
        total = ApplyResult()
        endpoint_id = batch.unread.endpoint_id
        for number, report in enumerate(batch.opened):
            try:
                if report is not None:
                    total.add(self._transaction([report]))
            except RETRYABLE:
                raise
            except DatabaseRefused as error:
                batch.reject(f"the database rejects the report: {error}", batch.unread.reports[number])
            except TooManyNodes as error:
                batch.reject(str(error), batch.unread.reports[number])
            except Exception:  # noqa: B902 - the reports stay until the bug is mended
                pause = min(MAX_PAUSE, 2 * self._paused.get(endpoint_id, (0.0, FIRST_PAUSE / 2))[1])
                self._paused[endpoint_id] = time.monotonic() + pause, pause
                log.exception(
                    "endpoint %s: unexpected error, its reports are not applied; next try in %.0f s",
                    endpoint_id,
                    pause,
                )
                return total
            batch.count = number + 1
        self._paused.pop(endpoint_id, None)
        return total

    def _transaction(self, reports: Sequence[OpenReport]) -> ApplyResult:
        if not reports:
            return ApplyResult()
        with self.fed.database.write() as connection:
            return apply_reports(self.fed, connection, reports, self.fed.clock())


def collectors(fed: Federation) -> dict[str, dict[str, Any]]:
    """Return the known collectors: name → {"beat"}."""
    return {
        name.decode(): json.loads(value) for name, value in fed.broker.redis.hgetall(COLLECTORS_KEY).items()
    }


@contextmanager
def _unique_name(fed: Federation) -> Iterator[str]:
    """Reserve a unique name among the collectors of this home: the first free of <host>-0, <host>-1, …

    A restarted collector gets its previous name, and so its previous claims.
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
