"""A node's description and beats: written together with what it holds, and never without it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import fakeredis
import pytest
import redis

from endpoint_worker.broker import fetches
from endpoint_worker.reporting import presence
from endpoint_worker.reporting.outbox import Outbox
from endpoint_worker.reporting.presence import KeysLost, Load
from tests.support.broker import running_broker
from tests.support.wait import wait_until
from tests.unit.endpoint_worker.reporting.service import ENDPOINT, Service, View, make, opened, outcome
from umbel.protocol import limits, names
from umbel.protocol.envelope import unverified_header
from umbel.protocol.node_state import NODE_NEWS
from umbel.system.clock import steady


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[redis.Redis]:
    """A real one: what a loss of keys does to a transaction is its business."""
    with running_broker(tmp_path) as url, redis.Redis.from_url(url) as client:
        yield client


class Interfering:
    """A client with which something happens between the look and the transaction of a beat."""

    def __init__(self, client: redis.Redis):
        self._client = client
        self.happens: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def pipeline(self, *args: Any, **options: Any) -> Any:
        pipe: Any = self._client.pipeline(*args, **options)
        multi = pipe.multi

        def interrupted() -> Any:
            if self.happens:
                self.happens.pop()()
            return multi()

        pipe.multi = interrupted
        return pipe


def announced(client: Any, spool: Path, *held: str) -> tuple[Outbox, View, Service]:
    box, view = make(client, spool)
    view.work = set(held)
    box._exchange()
    return box, view, Service(client)


def test_the_description_and_what_the_node_holds_come_first(tmp_path: Path) -> None:
    with fakeredis.FakeRedis() as client, client.pubsub() as listening:
        listening.subscribe(names.news_channel(ENDPOINT))
        _, _, service = announced(client, tmp_path, "b1")
        state, beat = service.node(), service.beat()
        assert state is not None and beat is not None and service.held() == {"b1"}
        assert (state.node, state.slots, state.facts) == ("n1", 2, {"python": "3.12"})
        assert (state.version, beat.version, beat.busy, beat.number) == (1, 1, 1, 1)
        messages = [listening.get_message(timeout=1) for _ in range(2)]
        assert messages[-1] is not None and messages[-1]["data"] == NODE_NEWS


def test_the_clock_is_measured_before_the_description_is_written(tmp_path: Path) -> None:
    with fakeredis.FakeRedis() as client:
        box, _ = make(client, tmp_path)
        with mock.patch.object(client, "time", return_value=(time.time() + 7200, 0)):
            box._exchange()
        state = client.hget(names.nodes_key(ENDPOINT), "i1")
        assert isinstance(state, bytes)
        assert 7100 < unverified_header(state)["iat"] - time.time() < 7300


def test_beats_count_and_a_changed_description_is_written_with_one(tmp_path: Path) -> None:
    with fakeredis.FakeRedis() as client:
        box, view, service = announced(client, tmp_path)
        first = service.beat()
        box._presence.beat_soon()
        view.work.add("b1")
        box._exchange()
        second = service.beat()
        assert first is not None and second is not None and second.number > first.number
        assert (second.version, second.busy, service.node().version) == (1, 1, 1)  # type: ignore[union-attr]
        view.slots, view.facts = 3, {"problem": "no"}
        box._presence.beat_soon()
        box._exchange()
        state, beat = service.node(), service.beat()
        assert state is not None and beat is not None
        assert (state.version, state.slots, state.facts, beat.version) == (2, 3, {"problem": "no"}, 2)


def test_a_description_is_written_once(tmp_path: Path) -> None:
    with fakeredis.FakeRedis() as client, client.pubsub() as listening:
        box, view, _ = announced(client, tmp_path)
        listening.subscribe(names.news_channel(ENDPOINT))
        assert listening.get_message(timeout=1)
        for slots in (2, 3, 3):
            view.slots = slots
            box._presence._write_beat(view)
        messages = [listening.get_message() for _ in range(3)]
        assert [each is not None and each["data"] for each in messages] == [NODE_NEWS, False, False]


def test_a_node_that_could_not_announce_itself_tries_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fakeredis.FakeRedis() as client:
        box, view = make(client, tmp_path)
        view.work = {"b1"}
        with monkeypatch.context() as patch:
            patch.setattr(client, "pipeline", mock.Mock(side_effect=redis.ConnectionError("refused")))
            with pytest.raises(redis.ConnectionError):
                box._presence.announce(view, view.work)
        failing = mock.MagicMock()
        failing.publish.return_value.execute.side_effect = redis.ConnectionError("refused")
        with monkeypatch.context() as patch:
            patch.setattr(client, "pipeline", lambda: failing)
            with pytest.raises(redis.ConnectionError):
                box._presence.announce(view, view.work)
        assert not box._presence.announced
        box._exchange()
        service = Service(client)
        assert service.beat() is not None and service.held() == {"b1"}


def test_extreme_loads_are_written(tmp_path: Path) -> None:
    with fakeredis.FakeRedis() as client:
        box, view, service = announced(client, tmp_path)
        view.load = lambda: Load(1, 2, 1e30, -1e30)  # type: ignore[method-assign]
        box._presence.beat_soon()
        box._exchange()
        assert service.beat() is not None and service.beat().queue == 2  # type: ignore[union-attr]


def test_nothing_is_fetched_before_the_service_knows_the_instance(
    server: fakeredis.FakeServer, tmp_path: Path
) -> None:
    with opened(server, tmp_path) as (box, _, service):
        wait_until(lambda: service.node(), what="the node")
        service.know("another")
        assert not box.fetches.allowed
        service.know()
        wait_until(lambda: box.fetches.allowed, what="permission")
        service.client.flushall()
        box.beat_soon()
        wait_until(lambda: service.node(), what="the node is there again")
        assert not box.fetches.allowed and service.node().version == 2  # type: ignore[union-attr]
        service.know()
        wait_until(lambda: box.fetches.allowed, what="permission again")


def test_the_service_is_asked_less_and_less_often_until_it_knows_the_instance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Afterwards only beats are due. What is due is done when it is due, and not before."""
    ticks = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(presence, "time", SimpleNamespace(monotonic=lambda: ticks.now))
    asked: list[float] = []
    with fakeredis.FakeRedis() as client:
        known = client.sismember
        monkeypatch.setattr(client, "sismember", lambda *key: (asked.append(ticks.now), known(*key))[1])
        box, view, service = announced(client, tmp_path)
        node = box._presence
        beats = []
        while len(beats) < 3 and len(asked) < 100:
            if len(beats) == 1:
                service.know()
            due = node.due
            ticks.now = due - 0.01
            assert not node.poll(view)
            ticks.now = due
            if node.poll(view):
                beats.append(ticks.now)
            assert node.due > due
        waits = [later - first for first, later in zip(asked, asked[1:])]
        growing = [presence.FIRST_QUESTION * 1.5**number for number in range(len(waits))]
        assert waits == pytest.approx([min(presence.LONGEST_QUESTION, each) for each in growing])
        assert beats == pytest.approx([1000.0 + limits.HEARTBEAT_INTERVAL * number for number in (1, 2, 3)])
        assert asked[-1] < beats[1] and box.fetches.allowed
        node.lost()
        assert not box.fetches.allowed and node.due <= ticks.now
        client.delete(names.known_key(ENDPOINT))
        count = len(asked)
        node.announce(view, ())
        node.poll(view)
        ticks.now += presence.FIRST_QUESTION
        node.poll(view)
        assert len(asked) == count + 2, "it asks often again"


def test_a_node_that_is_not_confirmed_says_why_it_is_idle(
    server: fakeredis.FakeServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(presence, "UNKNOWN_AFTER", 0.1)
    with opened(server, tmp_path) as (box, _, service):
        wait_until(lambda: "no bundle is fetched" in caplog.text, what="the reason")
        service.know()
        wait_until(lambda: box.fetches.allowed, what="permission")


def test_the_reason_is_logged_once_in_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ticks = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(presence, "time", SimpleNamespace(monotonic=lambda: ticks.now))

    def lines(seconds: float) -> int:
        caplog.clear()
        end = ticks.now + seconds
        while (due := box._presence.due) <= end:
            ticks.now = due
            box._presence.poll(view)
            assert box._presence.due > due
        ticks.now = end
        return len(caplog.records)

    with fakeredis.FakeRedis() as client:
        box, view, _ = announced(client, tmp_path)
        pause = presence.LONGEST_QUESTION
        assert [lines(presence.UNKNOWN_AFTER - pause), lines(2 * pause)] == [0, 1]
        assert [lines(2 * presence.UNKNOWN_AFTER), lines(presence.UNKNOWN_AFTER / 2)] == [2, 0]
        box._presence.lost()
        box._presence.announce(view, ())
        assert [lines(presence.UNKNOWN_AFTER - pause), lines(2 * pause)] == [0, 1], "it is counted anew"


def test_a_goodbye_takes_everything_away_and_is_announced(tmp_path: Path) -> None:
    with fakeredis.FakeRedis() as client, client.pubsub() as listening:
        box, _, service = announced(client, tmp_path, "b1")
        client.lpush(names.fetched_key(ENDPOINT, "i1"), b"x")
        listening.subscribe(names.news_channel(ENDPOINT))
        assert listening.get_message(timeout=1)
        box._presence.goodbye(b"UMBPgoodbye")
        assert client.lrange(names.reports_key(ENDPOINT), 0, -1) == [b"UMBPgoodbye"]
        assert service.beat() is None and service.node() is None and not service.held()
        assert not client.exists(names.fetched_key(ENDPOINT, "i1"))
        message = listening.get_message(timeout=1)
        assert message is not None and message["data"] == b""


def test_a_service_that_grants_no_right_to_ask_does_not_confirm_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It has an earlier version; everything else works, so one line a minute says what is wrong."""
    monkeypatch.setattr(presence, "UNKNOWN_AFTER", 0.0)
    refused = mock.Mock(side_effect=redis.exceptions.NoPermissionError("no permission for 'sismember'"))
    with fakeredis.FakeRedis() as client:
        monkeypatch.setattr(client, "sismember", refused)
        box, _, service = announced(client, tmp_path)
        box._exchange()
        assert refused.called and service.beat() is not None and not box.fetches.allowed
        assert "same version" in caplog.text and "cannot be used" not in caplog.text


def test_a_beat_does_not_hide_a_loss_of_keys(broker: redis.Redis, tmp_path: Path) -> None:
    """The keys are lost at the worst moment: a beat alone would say that the node holds nothing."""
    client = Interfering(broker)
    box, _, service = announced(client, tmp_path, "b1")
    client.happens = [broker.flushall]
    with pytest.raises(KeysLost):
        box._presence._write_beat(box._view)
    assert service.beat() is None and service.node() is None
    box._exchange()  # a beat is not due: nothing is noticed yet
    box._presence.beat_soon()
    box._exchange()
    box._exchange()
    assert service.beat() is not None and service.node() is not None and service.held() == {"b1"}


def test_a_beat_that_collides_with_another_node_is_tried_again(broker: redis.Redis, tmp_path: Path) -> None:
    client = Interfering(broker)
    box, _, service = announced(client, tmp_path)
    before = service.beat()

    def other() -> None:
        broker.hset(names.nodes_key(ENDPOINT), "i2", b"x")

    client.happens = [other] * 2
    box._presence._write_beat(box._view)
    after = service.beat()
    assert before is not None and after is not None and not client.happens
    assert after.number == before.number + 3, "the third one was written, and no other"
    client.happens = [other] * 50
    box._presence._write_beat(box._view)
    assert service.beat() == after and len(client.happens) == 50 - presence.TRIES
    assert 0 < box._presence._next_beat - time.monotonic() <= presence.RETRY


def test_a_beat_that_is_deleted_in_the_meantime_is_not_written(broker: redis.Redis, tmp_path: Path) -> None:
    """The service deletes the beats together with a list of reports that is none."""
    client = Interfering(broker)
    box, _, _ = announced(client, tmp_path, "b1")
    client.happens = [lambda: broker.delete(names.beats_key(ENDPOINT))]
    with pytest.raises(KeysLost):
        box._presence._write_beat(box._view)


def test_a_node_that_was_suspended_fetches_after_its_next_beat(
    server: fakeredis.FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(server, tmp_path) as (box, _, service):
        service.know()
        wait_until(lambda: box.fetches.allowed, what="permission")
        box.fetches.renew(steady() - fetches.LEASE_SECONDS)
        assert not box.fetches.allowed
        box.beat_soon()
        wait_until(lambda: box.fetches.allowed, what="permission again")


def test_a_removed_beat_is_noticed(tmp_path: Path) -> None:
    """The service has removed the node, because it believed it to be dead."""
    with fakeredis.FakeRedis() as client:
        box, view, service = announced(client, tmp_path, "b1")
        client.hdel(names.beats_key(ENDPOINT), "i1")
        client.delete(names.held_key(ENDPOINT, "i1"))
        box.add("b2", [outcome("t2")])
        box._presence.beat_soon()
        box._exchange()
        box._exchange()
        assert service.beat() is not None and service.held() == {"b1", "b2"}
