"""A federation for tests: a real SQLite database, and a broker that only records what is sent to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import redis

from federation.broker.client import Broker
from federation.config.settings import Settings
from federation.context import Federation, open_federation


class RecordingRedis:
    """Accepts commands and keeps them in ``commands``; with ``down`` set it behaves like a dead server."""

    def __init__(self) -> None:
        self.commands: list[tuple[Any, ...]] = []
        self.down = False

    def execute_command(self, *words: Any) -> None:
        if self.down:
            raise redis.ConnectionError("connection refused")
        self.commands.append(words)

    def pipeline(self, transaction: bool = False) -> RecordingRedis:
        return self

    def execute(self) -> list[Any]:
        return []

    def info(self, section: str = "") -> dict[str, Any]:
        if self.down:
            raise redis.ConnectionError("connection refused")
        return {"redis_version": "7.2.0"}

    def scan_iter(self, match: str, count: int = 0) -> Iterator[bytes]:
        return iter(())

    def ping(self) -> bool:
        if self.down:
            raise redis.ConnectionError("connection refused")
        return True


class RecordingHoldings:
    """``epochs``: of the keys of endpoints, by id."""

    def __init__(self) -> None:
        self.epochs: dict[str, int] = {}

    def begin_epochs(self, endpoint_ids: Iterable[str], epoch: int) -> None:
        self.epochs.update(dict.fromkeys(endpoint_ids, epoch))


class RecordingBroker:
    """Stands where ``broker.client.Broker`` stands; ``sent`` and ``cancelled`` tell what went out."""

    address = "broker.example:6379"

    def __init__(self) -> None:
        self.redis = RecordingRedis()
        self.sent: list[Any] = []
        self.cancelled: list[str] = []
        self.woken: list[str] = []
        self.holdings = RecordingHoldings()

    def send(self, outgoing: Any) -> None:
        self.sent += outgoing

    def cancel(self, endpoint_id: str, task_ids: Any) -> None:
        self.cancelled += task_ids

    def wake(self, groups: Any) -> None:
        self.woken += groups

    def drop_endpoint(self, endpoint_id: str) -> None:
        """There is nothing to drop."""

    def close(self) -> None:
        """There is nothing to close."""


def open_recording(home: Path, **settings: Any) -> tuple[Federation, RecordingBroker]:
    """Open a federation on a new SQLite database in ``home``, and its recording broker."""
    real = open_federation(Settings(home=home, broker_url="redis://broker.example:6379", **settings))
    real.broker.close()
    broker = RecordingBroker()
    return replace(real, broker=cast(Broker, broker)), broker
