"""The broker's clock as a node keeps it."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import redis

from endpoint_worker.broker import clock as clock_module
from endpoint_worker.broker.clock import BrokerClock
from endpoint_worker.broker.outage import Outage, describe


class Broker:
    """Answers with ``now`` after ``trip`` seconds."""

    def __init__(self, local: dict[str, float]):
        self.local = local
        self.now, self.trip = 5000.0, 0.0
        self.error: Exception | None = None

    def time(self) -> Any:
        if self.error is not None:
            raise self.error
        self.local["elapsed"] += self.trip
        return int(self.now), int(self.now % 1 * 1e6)


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """The node's clocks."""
    values = {"time": 1000.0, "elapsed": 10.0}
    monkeypatch.setattr(clock_module, "steady", lambda: values["elapsed"])
    monkeypatch.setattr(clock_module.time, "time", lambda: values["time"])
    return values


def test_the_brokers_time_is_kept_whatever_happens_to_the_nodes_clock(local: dict[str, float]) -> None:
    clock, broker = BrokerClock(), Broker(local)
    assert (clock.now(), clock.offset) == (1000.0, 0.0), "before the first measurement: the node's own"
    assert clock.measure(broker)  # type: ignore[arg-type]
    assert (clock.now(), clock.offset) == (5000.0, 4000.0)
    local["time"] = 999_999.0
    local["elapsed"] += 7.0
    assert (clock.now(), clock.offset) == (5007.0, 5007.0 - 999_999.0)
    broker.error = redis.ConnectionError("gone")
    assert not clock.measure(broker)  # type: ignore[arg-type]
    assert clock.now() == 5007.0


def test_a_slow_answer_is_used_only_if_there_is_no_better_one(local: dict[str, float]) -> None:
    clock, broker = BrokerClock(), Broker(local)
    broker.trip = 10.0
    assert clock.measure(broker)  # type: ignore[arg-type]
    assert clock.now() == 5005.0, "the answer was made half way"
    broker.now = 9000.0
    assert not clock.measure(broker)  # type: ignore[arg-type]
    broker.trip = 0.1
    assert clock.measure(broker)  # type: ignore[arg-type]
    assert clock.now() == pytest.approx(9000.05)


def test_a_difference_is_logged_once_and_so_is_its_end(
    local: dict[str, float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    clock, broker = BrokerClock(), Broker(local)
    for _ in range(3):
        clock.measure(broker)  # type: ignore[arg-type]
    local["time"] = 5000.0
    clock.measure(broker)  # type: ignore[arg-type]
    assert len(caplog.records) == 2 and "4000 s behind" in caplog.text


def test_an_outage_is_logged_once_a_minute_and_its_pauses_grow(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    monkeypatch.setattr("endpoint_worker.broker.outage.time.monotonic", lambda: now[0])
    caplog.set_level(logging.INFO)
    outage = Outage(logging.getLogger("test"), "nothing is sent", first=1.0, longest=8.0)
    outage.ended()
    pauses = []
    for _ in range(600):
        outage.failed(redis.OutOfMemoryError("OOM command not allowed"))
        pauses.append(outage.pause)
        now[0] += 1.0
    assert pauses[:5] == [1.0, 2.0, 4.0, 8.0, 8.0] and outage.active
    assert 9 <= len(caplog.records) <= 11 and "maxmemory" in caplog.text
    outage.ended()
    assert not outage.active and "again" in caplog.records[-1].getMessage()


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (redis.AuthenticationError("WRONGPASS"), "account"),
        (redis.exceptions.NoPermissionError("NOPERM"), "right"),
        (redis.ReadOnlyError("READONLY"), "read-only"),
        (redis.BusyLoadingError("LOADING"), "loading"),
        (ConnectionRefusedError(111, "Connection refused"), "refused"),
        (redis.ConnectionError(), "ConnectionError"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_an_error_is_described_by_its_cause(error: Exception, word: str) -> None:
    wrapped = RuntimeError("kombu")
    wrapped.__cause__ = error
    assert word in describe(error)
    if not isinstance(error, (ConnectionRefusedError, redis.exceptions.ConnectionError)):
        assert word in describe(wrapped)
