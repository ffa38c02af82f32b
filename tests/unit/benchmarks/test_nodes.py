"""Simulated nodes against a real ledger, collector and sweeper in one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.nodes import node as nodes
from benchmarks.nodes.fleet import Fleet
from benchmarks.nodes.node import Executed, Shared
from endpoint_worker.broker.clock import BrokerClock
from endpoint_worker.intake.receive import FunctionCache, Intake
from tests.support.endpoint import FakeEndpoint
from tests.support.ledger import Ledger, open_ledger
from umbel.protocol import names
from umbel.protocol.envelope import Verifier
from umbel.serialize import dump_call, load_result


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with open_ledger(tmp_path) as found:
        yield found


@pytest.fixture
def lab(ledger: Ledger) -> FakeEndpoint:
    return ledger.endpoint()


def _fleet(lab: FakeEndpoint, folder: Path, count: int = 3, slots: int = 2, seconds: float = 0.0) -> Fleet:
    client: Any = lab.broker.server
    clock = BrokerClock()
    functions = FunctionCache(folder / "functions")
    intake = Intake(lab.id, Verifier(lab.fed.signer.public_key), functions, client, clock.now)
    fleet = Fleet(
        lambda later: Shared(
            lab.id, lab.signer, intake, client, clock, folder / "spool", slots, later, seconds
        ),
        count,
        client,
    )
    return fleet


def _until(ledger: Ledger, fleet: Fleet, done: Callable[[], bool], seconds: float = 20.0) -> None:
    """Let nodes and service work in turn until something is true."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, fleet.statistics()
        fleet.turn()
        ledger.collect()


def _payloads(count: int) -> list[bytes]:
    return [dump_call((number,), {}) for number in range(count)]


def test_every_call_is_executed_once_and_returns_its_argument(
    ledger: Ledger, lab: FakeEndpoint, tmp_path: Path
) -> None:
    fleet = _fleet(lab, tmp_path)
    _until(ledger, fleet, lambda: fleet.statistics()["known"] == 3)
    answer = ledger.submit(lab, _payloads(200))
    _until(ledger, fleet, lambda: ledger.state(answer) == "succeeded")
    rows = ledger.results(answer["group_id"])["results"]
    assert sorted(load_result(row["result"]) for row in rows) == list(range(200))
    found = fleet.statistics()
    assert (found["executed"], found["again"], found["busy"]) == (200, 0, 0)
    assert {node["name"] for node in ledger.nodes(lab)} == {"n00000", "n00001", "n00002"}


def test_nodes_that_the_service_does_not_know_fetch_nothing(
    ledger: Ledger, lab: FakeEndpoint, tmp_path: Path
) -> None:
    answer = ledger.submit(lab, _payloads(5))
    fleet = _fleet(lab, tmp_path, count=1)
    until = time.monotonic() + 0.3
    while time.monotonic() < until:
        fleet.turn()
    assert fleet.statistics()["known"] == fleet.statistics()["executed"] == 0
    assert ledger.state(answer) in ("queued", "dispatched")
    _until(ledger, fleet, lambda: ledger.state(answer) == "succeeded")


def test_a_slot_runs_one_call_at_a_time(ledger: Ledger, lab: FakeEndpoint, tmp_path: Path) -> None:
    fleet = _fleet(lab, tmp_path, count=2, slots=2, seconds=0.02)
    _until(ledger, fleet, lambda: fleet.statistics()["known"] == 2)
    answer, most = ledger.submit(lab, _payloads(40)), [0]

    def done() -> bool:
        most[0] = max(most[0], fleet.statistics()["busy"])
        return ledger.state(answer) == "succeeded"

    _until(ledger, fleet, done)
    assert most[0] == 4
    assert fleet.statistics()["executed"] == 40 and fleet.statistics()["again"] == 0


def test_long_calls_are_reported_and_others_do_not_wait_behind_them(
    ledger: Ledger, lab: FakeEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "REPORT_RUNNING_AFTER", 0.05)
    fleet = _fleet(lab, tmp_path, count=1, slots=2, seconds=0.4)
    _until(ledger, fleet, lambda: fleet.statistics()["known"] == 1)
    answer = ledger.submit(lab, _payloads(8))
    _until(ledger, fleet, lambda: ledger.states(answer)["running"] == 2)
    _until(ledger, fleet, lambda: ledger.state(answer) == "succeeded")
    found = fleet.statistics()
    assert (found["executed"], found["again"]) == (8, 0)
    assert found["bundles"] > 2


def test_lost_keys_are_written_again(ledger: Ledger, lab: FakeEndpoint, tmp_path: Path) -> None:
    fleet = _fleet(lab, tmp_path)
    _until(ledger, fleet, lambda: fleet.statistics()["known"] == 3)
    keys = [names.beats_key(lab.id), names.nodes_key(lab.id), names.known_key(lab.id)]
    lab.broker.server.delete(*keys)
    for node in fleet.nodes:
        node.outbox.beat_soon()
        fleet.touch(node)
    _until(ledger, fleet, lambda: lab.broker.server.hlen(names.beats_key(lab.id)) == 3)
    answer = ledger.submit(lab, _payloads(20))
    _until(ledger, fleet, lambda: ledger.state(answer) == "succeeded")
    assert fleet.statistics()["again"] == 0


def test_a_second_start_is_counted() -> None:
    executed = Executed()
    first, second = names.new_id(), names.new_id()
    for task in (first, second, first):
        executed.add(task)
    assert (executed.calls, executed.again) == (2, 1)
