"""The collector's loop, its heartbeats and turns; what it does with reports is in ``contract/ledger``."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fakeredis
import pytest
import redis

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
    assert collectors(fed) == {"c0": {"since": 1000.0, "beat": 1000.0}}
    times.forward(0.75)
    one.heartbeat()
    assert collectors(fed)["c0"]["beat"] == 1000.0
    times.forward(0.25)
    one.heartbeat()
    assert collectors(fed) == {"c0": {"since": 1000.0, "beat": 1001.0}}


@pytest.mark.parametrize(
    ("lost_after", "wall", "ticks", "continuous"),
    [
        (60.0, 10.0, 10.0, True),
        (60.0, 10.5, 1.0, False),
        (60.0, 1.0, 10.5, False),
        (60.0, -0.5, 1.0, False),
        (60.0, 3600.0, 1.0, False),
        (6.0, 3.0, 3.0, True),
        (6.0, 3.5, 3.5, False),
        (1.0, 2.0, 2.0, True),
        (1.0, 2.5, 2.5, False),
    ],
)
def test_a_collector_that_pauses_or_whose_clock_jumps_starts_to_listen_anew(
    fed: Any, times: Times, lost_after: float, wall: float, ticks: float, continuous: bool
) -> None:
    fed.settings.node_lost_after = lost_after
    one = Collector(fed, "c0")
    one.heartbeat()
    times.forward(wall, ticks)
    one.heartbeat()
    assert collectors(fed)["c0"] == {"since": 1000.0 if continuous else times.wall, "beat": times.wall}


def test_entries_of_dead_collectors_are_removed(fed: Any, times: Times) -> None:
    for name, age in (("dead", DEAD_AFTER + 1), ("late", DEAD_AFTER - 1)):
        beat = {"since": 1.0, "beat": times.wall - age}
        fed.broker.redis.hset(COLLECTORS_KEY, name, json.dumps(beat))
    Collector(fed, "c0").heartbeat()
    assert collectors(fed).keys() == {"late", "c0"}


def test_no_error_ends_the_loop_and_after_each_one_it_listens_anew(
    fed: Any, times: Times, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: list[Exception] = [redis.ConnectionError("x"), DatabaseUnavailable("x"), KeyError("a bug")]
    looked: list[float] = []
    rounds: list[float] = []
    closed: list[bool] = []
    one = Collector(fed, "c0")

    def collect(timeout: float) -> None:
        looked.append(one._last_look)
        rounds.append(collectors(fed)["c0"]["since"])
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


def test_endpoints_whose_reports_cannot_be_applied_pause(fed: Any, times: Times) -> None:
    one = Collector(fed, "c0")
    one._paused["e1"] = (times.ticks + 1, 1.0)
    one._paused["e2"] = (times.ticks, 1.0)
    assert [one._may_read(each) for each in ("e0", "e1", "e2")] == [True, False, True]


def test_collectors_of_a_home_have_names_of_their_own(fed: Any) -> None:
    with module._unique_name(fed) as first:
        with module._unique_name(fed) as second:
            assert [name.rsplit("-", 1)[1] for name in (first, second)] == ["0", "1"]
        with module._unique_name(fed) as third:
            assert third == second
    with module._unique_name(fed) as again:
        assert again == first
