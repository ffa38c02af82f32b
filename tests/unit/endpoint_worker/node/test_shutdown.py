"""When a worker in a batch job leaves, and what becomes of what it has."""

from __future__ import annotations

import signal
import time
from typing import Any

import pytest
from redis.exceptions import ConnectionError as BrokerGone

from endpoint_worker.node import shutdown
from endpoint_worker.node.shutdown import ShutdownConditions, ShutdownMonitor
from tests.support.wait import wait_until
from umbel.protocol.messages import Bundle, Call, FunctionRef, Interruption
from umbel.system import threads

NOW = 1_000_000.0


class Supervisor:
    """Notes how it was drained."""

    def __init__(self) -> None:
        self.drained: list[tuple[float, str]] = []

    def drain(self, seconds: float, why: str = Interruption.STOPPED) -> None:
        self.drained.append((seconds, why))


class Node:
    """A node with nothing behind it; ``work``: ids of bundles that it holds."""

    name = "n1"

    def __init__(self, broker: Broker) -> None:
        self.client = broker
        self.work: list[str] = []
        self.supervisor = Supervisor()
        self.fits: Any = None

    def working(self) -> bool:
        return bool(self.work)


class Broker:
    """Answers while it is ``there``."""

    def __init__(self) -> None:
        self.there = True

    def ping(self) -> bool:
        if not self.there:
            raise BrokerGone("gone")
        return True


class Watched:
    """A shutdown monitor whose clock stands at ``now``, and the signals that it has sent to its process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **conditions: Any):
        self.now, self.broker = NOW, Broker()
        self.node = Node(self.broker)
        self.signals: list[int] = []
        monkeypatch.setattr(shutdown.os, "kill", lambda _, number: self.signals.append(number))
        for name, value in {"TICK": 0.01, "IN_FLIGHT": 0.0, "PING_INTERVAL": 0.01}.items():
            monkeypatch.setattr(shutdown, name, value)
        chosen = ShutdownConditions(**conditions)
        self.monitor = ShutdownMonitor(self.node, chosen, lambda: self.now)  # type: ignore[arg-type]

    def run(self) -> None:
        """Let it watch until it has ended its process."""
        self.monitor.start()
        wait_until(lambda: self.signals == [signal.SIGTERM], 10.0, what="the end of the worker")


def bundle(seconds: float) -> Bundle:
    return Bundle("b", "e", FunctionRef("f", "f", "0", 1), [Call("t", 1, 0, 1)], seconds=seconds)


def test_before_its_jobs_end_it_drains_and_what_is_cut_off_is_the_jobs_doing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watched = Watched(monkeypatch, block="b", walltime_end=NOW + 3600, drain_margin=60)
    watched.monitor.start()
    time.sleep(0.1)
    assert watched.node.supervisor.drained == []
    watched.now = NOW + 3545
    wait_until(lambda: bool(watched.node.supervisor.drained), 10.0)
    wait_until(lambda: watched.signals == [signal.SIGTERM], 10.0)
    ((left, why),) = watched.node.supervisor.drained
    assert left == pytest.approx(55 - shutdown.REPORT_SECONDS) and why == Interruption.WALLTIME


def test_what_runs_may_go_on_until_shortly_before_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch, walltime_end=NOW + 3600, drain_margin=60)
    watched.node.work = ["b"]
    watched.now = NOW + 3545
    watched.monitor.start()
    wait_until(lambda: bool(watched.node.supervisor.drained), 10.0)
    time.sleep(0.3)
    assert watched.signals == []
    watched.now = NOW + 3600 - shutdown.REPORT_SECONDS + 1
    wait_until(lambda: watched.signals == [signal.SIGTERM], 10.0)


def test_a_call_that_would_outlast_the_job_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch, walltime_end=NOW + 3600)
    assert watched.node.fits(bundle(9000.0)), "in a job that has just begun everything fits"
    watched.now = NOW + 1800
    assert watched.node.fits(bundle(0.0)) and watched.node.fits(bundle(1700.0))
    assert not watched.node.fits(bundle(1790.0))
    watched.run()  # there is a call for a fresher worker: this one makes room


def test_an_ordinary_worker_takes_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Watched(monkeypatch).node.fits is None


def test_without_work_it_leaves_after_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch, idle=0.2)
    watched.run()
    ((seconds, why),) = watched.node.supervisor.drained
    assert seconds > 1e6 and why == Interruption.STOPPED


def test_with_work_it_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch, idle=0.05)
    watched.node.work = ["b"]
    watched.monitor.start()
    time.sleep(0.4)
    assert watched.node.supervisor.drained == [] and watched.signals == []
    watched.node.work = []
    wait_until(lambda: watched.signals == [signal.SIGTERM], 10.0)


def test_without_a_broker_it_leaves_even_with_work(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch, broker_gone=0.3)
    watched.node.work = ["b"]
    watched.monitor.start()
    time.sleep(0.6)
    assert watched.signals == []
    watched.broker.there = False
    wait_until(lambda: watched.signals == [signal.SIGTERM], 10.0)


def test_it_leaves_when_it_is_asked_to_and_stops_to_take(monkeypatch: pytest.MonkeyPatch) -> None:
    class Consumer:
        cancelled: list[str] = []

        def call_soon(self, then: Any) -> None:
            then()

        def cancel_task_queue(self, name: str) -> None:
            self.cancelled.append(name)

    watched = Watched(monkeypatch)
    watched.monitor.attach(Consumer())
    watched.monitor.shut_down("drained")
    watched.run()
    assert Consumer.cancelled


def test_an_unexpected_error_does_not_keep_a_worker_from_leaving(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "FIRST_PAUSE", 0.01)
    watched = Watched(monkeypatch, idle=0.05)
    errors = [RuntimeError("first"), RuntimeError("second")]
    drain = watched.node.supervisor.drain

    def flawed(*args: Any) -> None:
        if errors:
            raise errors.pop()
        drain(*args)

    monkeypatch.setattr(watched.node.supervisor, "drain", flawed)
    watched.run()
    assert not errors and len(watched.node.supervisor.drained) == 1


def test_a_node_whose_clock_is_set_keeps_the_end_of_its_job(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = shutdown._steady_clock()
    before = clock()
    monkeypatch.setattr(shutdown.time, "time", lambda: before + 7200.0)
    assert abs(clock() - before) < 60.0
