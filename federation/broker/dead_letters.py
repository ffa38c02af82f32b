"""Rejected reports: a count per endpoint, and the beginning of the latest ones, for the operator."""

from __future__ import annotations

import json
import time
from base64 import b64encode
from collections.abc import Sequence
from typing import Any, NamedTuple

from .report_lists import HasRedis

#: Redis hash: endpoint id → number of its rejected reports.
REJECTED_KEY = "umbel:rejected"
#: Rejected reports that are kept per endpoint, how much of each, and for how long (seconds).
KEPT, KEPT_BYTES, KEPT_SECONDS = 20, 256, 7 * 86400
_REASON_LENGTH = 500


class Rejection(NamedTuple):
    """A report that was rejected. ``data``: its bytes, or its size if it was too large to be read."""

    endpoint_id: str
    reason: str
    data: bytes | int


class DeadLetters:
    """Keeps rejected reports in Redis, under keys of the service. May raise one of ``BrokerError``."""

    def __init__(self, broker: HasRedis):
        self._broker = broker

    def add(self, rejections: Sequence[Rejection]) -> None:
        """Count rejected reports and keep the beginning of the latest ones."""
        if not rejections:
            return
        pipe = self._broker.redis.pipeline(transaction=False)
        now = time.time()
        for endpoint_id in dict.fromkeys(each.endpoint_id for each in rejections):
            own = [each for each in rejections if each.endpoint_id == endpoint_id]
            key = _key(endpoint_id)
            pipe.lpush(key, *[_record(each, now) for each in own[-KEPT:]])
            pipe.ltrim(key, 0, KEPT - 1)
            pipe.expire(key, KEPT_SECONDS)
            pipe.hincrby(REJECTED_KEY, endpoint_id, len(own))
        pipe.execute()

    def count(self) -> int:
        """Return the number of reports rejected so far, of all endpoints."""
        return sum(map(int, self._broker.redis.hvals(REJECTED_KEY)))

    def latest(self, endpoint_id: str) -> list[dict[str, Any]]:
        """Return the latest rejected reports of an endpoint, newest first (time, reason, size, start)."""
        return [json.loads(each) for each in self._broker.redis.lrange(_key(endpoint_id), 0, -1)]

    def forget(self, endpoint_id: str) -> None:
        """Delete what is kept of an endpoint."""
        self._broker.redis.delete(_key(endpoint_id))
        self._broker.redis.hdel(REJECTED_KEY, endpoint_id)


def _key(endpoint_id: str) -> str:
    return f"umbel:dead:{endpoint_id}"


def _record(rejection: Rejection, now: float) -> str:
    data = rejection.data
    size, first = (data, b"") if isinstance(data, int) else (len(data), data[:KEPT_BYTES])
    reason = rejection.reason[:_REASON_LENGTH]
    return json.dumps({"time": now, "reason": reason, "size": size, "start": b64encode(first).decode()})
