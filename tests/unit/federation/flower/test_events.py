"""Whatever an endpoint publishes, Flower's state stays usable."""

from __future__ import annotations

import json
import random
from pathlib import Path
from queue import Empty
from typing import Any

import pytest
from celery.events.state import State
from kombu.transport import redis as kombu_redis

from federation.db.engine import Database
from federation.flower import events
from federation.flower.controls import EndpointLookup, NoSuchWorker
from federation.flower.events import Channel, EventFilter, clean

TASK = {
    "type": "task-failed", "uuid": "u1", "hostname": "worker@lab.n1", "timestamp": 1e9,
    "local_received": 1e9, "clock": 7, "exception": "CallsFailed('1 of 3 calls failed: TASK_ERROR')",
    "runtime": 0.5, "name": "dock",
}  # fmt: skip
WORKER = {
    "type": "worker-heartbeat", "hostname": "worker@lab.n1", "timestamp": 1e9, "local_received": 1e9,
    "clock": 7, "freq": 2.0, "active": 1, "processed": 3, "loadavg": [0.1, 0.2, 0.3], "sw_ident": "py-celery",
}  # fmt: skip
GARBAGE: list[Any] = [
    None, True, "", "x" * 100_000, [], ["a"], {}, {"a": 1}, -1, 10**400, 1e308, float("nan"),
    float("inf"), "\0", "\ud800", [[[]]], "worker@lab.n2", 3.5,
]  # fmt: skip


@pytest.mark.parametrize("event", [TASK, WORKER])
def test_true_events_pass_unchanged(event: dict[str, Any]) -> None:
    assert clean(event) == event


def test_garbage_breaks_nothing() -> None:
    chance = random.Random(1)
    state = State()
    accept = EventFilter(state.event)
    for _ in range(5000):
        event = dict(chance.choice([TASK, WORKER]))
        for _ in range(chance.choice([1, 2, 5])):
            event[chance.choice([*event, "parent_id", "args", "eta", "unknown"])] = chance.choice(GARBAGE)
        accept(event)
    for junk in GARBAGE:
        accept(junk)
    accept(TASK)
    assert state.tasks["u1"].state == "FAILURE"
    for task in state.tasks.values():
        assert all(isinstance(word, str) for word in (task.uuid, task.name or "", task.args or ""))
        assert json.dumps({key: task.info().get(key) for key in ("args", "runtime", "exception")})
    assert sorted(state.workers)[0]
    assert all(isinstance(worker.alive, bool) for worker in state.workers.values())


def test_invented_names_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MAX_NAMES", 3)
    passed: list[dict[str, Any]] = []
    accept = EventFilter(passed.append)
    for number in range(10):
        accept({**WORKER, "hostname": f"worker@lab.n{number}"})
    assert len(passed) == 3
    for number in range(10):
        accept({**TASK, "hostname": "worker@lab.n0", "name": f"f{number}"})
    assert {event.get("name") for event in passed[3:]} == {"f0", "f1", "f2", "(other)"}


@pytest.mark.parametrize("error", [KeyError("properties"), TypeError("str"), RecursionError()])
def test_a_message_that_cannot_be_read_is_dropped(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(self: Any, c: Any) -> None:
        raise error

    monkeypatch.setattr(kombu_redis.Channel, "_receive_one", fail)
    monkeypatch.setattr(Channel, "connection_errors", (ConnectionError,), raising=False)
    with pytest.raises(Empty):
        Channel._receive_one(object.__new__(Channel), None)


def test_names_of_events_reach_no_query(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    database.create()
    lookup = EndpointLookup(database)
    for name in ("worker@" + "a." * 5000, "worker@lab.\0", "worker@lab.\ud800", "", "worker@"):
        with pytest.raises(NoSuchWorker):
            lookup.of_worker(name)
    for name in ("x" * 100_000, "\0", ""):
        with pytest.raises(NoSuchWorker):
            lookup.of_message(name)
    database.close()
