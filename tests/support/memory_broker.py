"""A broker in memory, for tests that need a fake clock: the simulation. Others use ``watched_broker``."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import fakeredis
import redis

from federation.broker.client import Broker, Outgoing
from federation.broker.dead_letters import DeadLetters
from federation.broker.report_lists import ReportLists
from umbel.protocol import names


class _Redis(fakeredis.FakeRedis):
    """fakeredis, with the one answer that it does not give."""

    def info(self, section: str | None = None, *args: str, **more: Any) -> Any:
        return {"redis_version": "7.2.0"}


class _ReportLists(ReportLists):
    """The real lists, on fakeredis; remembers who was woken."""

    def __init__(self, broker: MemoryBroker):
        super().__init__(broker)
        self._woken = broker

    def remove(self, collector: str, applied: Any, changed: Any) -> None:
        """Remove reports, and remember who was woken."""
        changed = list(changed)
        self._woken.woken += changed
        super().remove(collector, applied, changed)


class MemoryBroker(Broker):
    """Stands where ``federation.broker.client.Broker`` stands.

    Bundles lie in ``queues`` by endpoint id, as they were sealed. ``down``: it behaves as if it could not be
    reached. ``deaf``: it takes bundles and loses them on the way.
    """

    def __init__(self) -> None:  # the real one would connect
        self.url = "redis://broker.example:6379/0"
        self.redis = _Redis(server=fakeredis.FakeServer())
        self.report_lists = _ReportLists(self)
        self.dead_letters = DeadLetters(self)
        self.queues: dict[str, list[Outgoing]] = defaultdict(list)
        self.cancelled: dict[str, list[str]] = defaultdict(list)
        self.woken: list[str] = []
        self.sends = 0
        self.down = False
        self.deaf = False
        self._lock = threading.Lock()

    def _check(self) -> None:
        if self.down:
            raise redis.ConnectionError("connection refused")

    def send(self, outgoing: Sequence[Outgoing]) -> None:
        """Put bundles into the queues."""
        self._check()
        with self._lock:
            self.sends += len(outgoing)
            for item in () if self.deaf else outgoing:
                queue = self.queues[item.endpoint_id]
                queue.insert(0 if item.passes else len(queue), item)

    def queued(self, endpoint_id: str) -> set[str]:
        """Ids of the bundles that lie in an endpoint's queue."""
        self._check()
        with self._lock:
            return {item.bundle_id for item in self.queues[endpoint_id]}

    def pop(self, endpoint_id: str) -> Outgoing | None:
        """Take the oldest bundle out of a queue, as a worker does."""
        with self._lock:
            queue = self.queues[endpoint_id]
            return queue.pop(0) if queue else None

    def cancel(self, endpoint_id: str, task_ids: Sequence[str]) -> None:
        """Remember what workers are told to stop."""
        self._check()
        self.cancelled[endpoint_id] += task_ids

    def notify(self, groups: Any) -> None:
        """Remember whom was woken."""
        self._check()
        self.woken += groups

    def push_report(self, endpoint_id: str, report: bytes) -> None:
        """Send a sealed report, as a worker of this endpoint does."""
        self.redis.lpush(names.reports_key(endpoint_id), report)

    def reports(self) -> int:
        """How many reports wait to be applied."""
        keys = self.redis.scan_iter(match=names.reports_key("*"))
        return sum(int(self.redis.llen(key)) for key in keys if self.redis.type(key) == b"list")

    def wipe(self) -> None:
        """Lose everything."""
        self.redis.flushall()
        with self._lock:
            self.queues.clear()

    def clear_function_cache(self) -> None:
        """There is nothing to forget: functions are not placed apart."""

    def drop_endpoint(self, endpoint_id: str) -> None:
        """Delete what an endpoint has in the broker."""
        super().drop_endpoint(endpoint_id)
        with self._lock:
            self.queues.pop(endpoint_id, None)

    def close(self) -> None:
        """Close the connection to nowhere."""
        self.redis.close()
