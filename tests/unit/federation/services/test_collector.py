"""The collector's loop, its heartbeats and turns; what it does with reports is in ``contract/ledger``."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fakeredis
import pytest
import redis

from federation.broker.report_lists import READ_ENDPOINTS, News
from federation.db.errors import DatabaseUnavailable
from federation.services import collector as module
from federation.services.collector import COLLECTORS_KEY, DEAD_AFTER, Collector, collectors


class Times:
    """Both clocks of a machine."""

    wall, ticks = 1000.0, 50.0

    def forward(self, wall: float, ticks: float | None = None) -> None:
        self.wall += wall
        self.ticks += wall if ticks is None else ticks


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> Times:
    times = Times()
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: times.ticks))
    return times


@pytest.fixture
def fed(times: Times, tmp_path: Path) -> Any:
    broker = SimpleNamespace(redis=fakeredis.FakeRedis())
    settings = SimpleNamespace(node_lost_after=60.0, home=tmp_path)
    return SimpleNamespace(broker=broker, settings=settings, clock=lambda: times.wall)


def test_a_heartbeat_is_written_once_per_interval(fed: Any, times: Times) -> None:
    one = Collector(fed, "c0")
    one.heartbeat()
    assert collectors(fed) == {"c0": {"beat": 1000.0}}
    times.forward(0.75)
    one.heartbeat()
    assert collectors(fed) == {"c0": {"beat": 1000.0}}
    times.forward(0.25)
    one.heartbeat()
    assert collectors(fed) == {"c0": {"beat": 1001.0}}


def test_entries_of_dead_collectors_are_removed(fed: Any, times: Times) -> None:
    for name, age in (("dead", DEAD_AFTER + 1), ("late", DEAD_AFTER - 1)):
        beat = {"beat": times.wall - age}
        fed.broker.redis.hset(COLLECTORS_KEY, name, json.dumps(beat))
    Collector(fed, "c0").heartbeat()
    assert collectors(fed).keys() == {"late", "c0"}


def test_no_error_ends_the_loop_and_after_each_one_it_looks_at_all_lists(
    fed: Any, times: Times, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: list[Exception] = [redis.ConnectionError("x"), DatabaseUnavailable("x"), KeyError("a bug")]
    looked: list[float] = []
    rounds: list[float] = []
    closed: list[bool] = []
    one = Collector(fed, "c0")

    def collect(timeout: float) -> None:
        looked.append(one._last_look)
        rounds.append(times.wall)
        one._last_look = times.ticks
        if errors:
            raise errors.pop(0)

    def wait(seconds: float) -> None:
        times.forward(seconds)

    monkeypatch.setattr(one, "collect", collect)
    monkeypatch.setattr(one, "_news", SimpleNamespace(close=lambda: closed.append(True)))
    stop: Any = SimpleNamespace(is_set=lambda: len(rounds) == 5, wait=wait)
    one.run(stop)
    assert rounds == [1000.0, 1000.5, 1001.0, 1001.5, 1001.5]
    assert looked == [0.0, 0.0, 0.0, 0.0, times.ticks], "news may have been lost: it looks at all lists"
    assert closed == [True]


def test_nodes_that_announce_themselves_are_looked_at(fed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of registered endpoints: an endpoint's own account can publish for itself only."""
    fed.broker.report_lists = None  # of which nothing is read
    one = Collector(fed, "c0")
    news = News({"e1"}, {"e3", "e2", "deleted"})
    monkeypatch.setattr(one, "_news", SimpleNamespace(wait=lambda timeout: news))
    monkeypatch.setattr(one, "_reader", SimpleNamespace(known=lambda each: each != "deleted"))
    monkeypatch.setattr(one, "look", lambda: None)
    monkeypatch.setattr(one, "_chosen", lambda: [])
    looked: list[list[str]] = []
    monkeypatch.setattr(one.watch, "look", looked.append)
    assert one.collect(0.0) is None
    assert looked == [["e2", "e3"]] and list(one._turns) == ["e1"]


def test_endpoints_take_turns(fed: Any, times: Times) -> None:
    one = Collector(fed, "c0")
    some = [f"e{number}" for number in range(READ_ENDPOINTS + 3)]
    one._turns = dict.fromkeys(some)
    one._paused["e1"] = (times.ticks + 1, 1.0)
    one._paused["e2"] = (times.ticks, 1.0)
    first = ["e0", *some[2 : READ_ENDPOINTS + 1]]
    assert (one._chosen(), one._chosen()) == (first, some[READ_ENDPOINTS + 1 :])
    assert one._chosen() == []


def test_collectors_of_a_home_have_names_of_their_own(fed: Any) -> None:
    with module._unique_name(fed) as first:
        with module._unique_name(fed) as second:
            assert [name.rsplit("-", 1)[1] for name in (first, second)] == ["0", "1"]
        with module._unique_name(fed) as third:
            assert third == second
    with module._unique_name(fed) as again:
        assert again == first
