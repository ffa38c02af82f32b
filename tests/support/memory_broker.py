"""The real broker client on a Redis in memory, for tests that need no server."""

from __future__ import annotations

from typing import Any
from unittest import mock

import fakeredis

from tests.support.watched_broker import WatchedBroker


class _Redis(fakeredis.FakeRedis):
    """fakeredis, with the answers that it does not give."""

    def info(self, section: str | None = None, *args: str, **more: Any) -> Any:
        return {"redis_version": "7.2.0", "run_id": "run"}


class MemoryBroker(WatchedBroker):
    """Stands where ``federation.broker.client.Broker`` stands."""

    def __init__(self) -> None:
        with mock.patch("redis.Redis.from_url", lambda *_, **__: _Redis(server=fakeredis.FakeServer())):
            super().__init__("redis://broker.example:6379/0")
