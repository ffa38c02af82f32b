"""A bundle is always found: in the queue, among the fetched messages, or in the set of held bundles."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fakeredis
import pytest
import redis

from endpoint_worker.reporting import holdings
from endpoint_worker.reporting.outbox import Outbox
from endpoint_worker.reporting.presence import KeysLost
from tests.support.wait import wait_until
from tests.unit.endpoint_worker.reporting.service import (
    ENDPOINT,
    Service,
    View,
    fetch,
    make,
    opened,
    outcome,
    payloads,
)
from umbel.protocol import names
from umbel.protocol.messages import Status

QUEUE, FETCHED = names.queue_key(ENDPOINT), names.fetched_key(ENDPOINT, "i1")


class Lossy:
    """A client whose transactions are executed, and whose answers are lost while ``lose`` is set.

    ``sent``: the commands of each transaction.
    """

    def __init__(self, client: fakeredis.FakeRedis):
        self._client = client
        self.lose = False
        self.sent: list[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def pipeline(self, *args: Any, **options: Any) -> Any:
        pipe: Any = self._client.pipeline(*args, **options)
        execute = pipe.execute

        def lossy() -> Any:
            self.sent.append([words[0] for words, _ in pipe.command_stack])
            answers = execute()
            if self.lose:
                raise redis.ConnectionError("the answer is lost")
            return answers

        pipe.execute = lossy
        return pipe


class Steps:
    """An outbox whose thread does not run: each ``step`` is one iteration, with a round."""

    def __init__(self, client: fakeredis.FakeRedis, spool: Path):
        self.client = client
        self.lossy = Lossy(client)
        self.box, self.view = make(self.lossy, spool)
        self.service = Service(client)
        self.fetches = self.box.fetches
        self.step()

    def step(self, count: int = 1) -> None:
        for _ in range(count):
            self.box._wake()
            self.box._delay = 0.0
            self.box._take(self.box._pause())
            self.box._spool_items()
            self.box._holdings._next, self.box._holdings._active = 0.0, True
            self.box._exchange()

    def fetched(self) -> list[bytes]:
        return self.client.lrange(FETCHED, 0, -1)  # type: ignore[no-any-return]


@pytest.fixture
def steps(tmp_path: Path) -> Iterator[Steps]:
    with fakeredis.FakeRedis() as client:
        yield Steps(client, tmp_path)


def test_a_delivered_bundle_is_held_before_its_message_is_removed(steps: Steps) -> None:
    steps.client.lpush(QUEUE, b"m1", b"m2")
    for bundle in ("b1", "b2"):
        fetch(steps.client, steps.fetches)
        steps.view.work.add(bundle)
        assert len(steps.fetched()) == len(steps.view.work)
    steps.step()
    assert steps.service.held() == {"b1", "b2"} and not steps.fetched()
    steps.view.work.remove("b1")
    steps.step()
    assert steps.service.held() == {"b2"}


def test_a_round_without_an_answer_loses_nothing(steps: Steps) -> None:
    steps.client.lpush(QUEUE, b"m1")
    fetch(steps.client, steps.fetches)
    steps.view.work = {"b1", "b2"}
    steps.lossy.lose = True
    steps.step()
    steps.view.work = {"b2", "b3"}
    steps.step()
    steps.lossy.lose = False
    steps.step()
    assert steps.service.held() == {"b2", "b3"} and not steps.fetched() and not steps.view.given_back


def test_a_bundle_that_is_held_again_after_a_lost_answer_is_in_the_set(steps: Steps) -> None:
    steps.view.work = {"b1"}
    steps.step()
    steps.lossy.lose = True
    steps.view.work = set()
    steps.step()
    assert steps.service.held() == set(), "removed, but the node does not know it"
    steps.lossy.lose = False
    steps.view.work = {"b1"}
    steps.step()
    assert steps.service.held() == {"b1"}


def test_a_message_whose_answer_was_lost_is_given_back_once(steps: Steps) -> None:
    steps.client.lpush(QUEUE, b"m1")
    current = steps.fetches.begin()
    steps.client.lmove(QUEUE, FETCHED, "RIGHT", "LEFT")
    steps.step(5)
    assert steps.fetched() == [b"m1"] and not steps.view.given_back, "it may still be delivered"
    current.end()
    steps.step()
    assert steps.view.given_back == [b"m1"]
    assert steps.fetched() == [b"m1"] or "m1" in steps.service.held(), "it is found at any time"
    steps.step(5)
    assert steps.view.given_back == [b"m1"] and not steps.fetched()
    found = [(row.bundle_id, row.status) for report in steps.service.reports for row in report.rows]
    assert found == [("m1", Status.RETURNED)]


def test_a_message_that_is_delivered_late_is_not_given_back(steps: Steps) -> None:
    """A process that was stopped between the command and the delivery."""
    steps.client.lpush(QUEUE, b"m1")
    current = steps.fetches.begin()
    steps.client.lmove(QUEUE, FETCHED, "RIGHT", "LEFT")
    steps.step(3)
    assert steps.fetches.deliver(current, b"m1", lambda: steps.view.work.add("b1"))
    current.end()
    steps.step(5)
    assert not steps.view.given_back and not steps.fetched() and steps.service.held() == {"b1"}


@pytest.mark.parametrize("lost", [True, False], ids=["answer lost", "answered"])
def test_a_message_that_was_delivered_in_between_is_not_given_back(steps: Steps, lost: bool) -> None:
    """The look at the list fails after the removal: what was seen before must be forgotten."""
    steps.client.lpush(QUEUE, b"m1")
    current = steps.fetches.begin()
    steps.client.lmove(QUEUE, FETCHED, "RIGHT", "LEFT")
    steps.step()
    steps.client.lpush(QUEUE, b"m2")
    steps.fetches.deliver(current, b"m1", lambda: steps.view.work.add("b1"))
    steps.lossy.lose = lost
    lrange, steps.lossy.lrange = steps.client.lrange, flawed  # type: ignore[attr-defined]
    steps.client.lmove(QUEUE, FETCHED, "RIGHT", "LEFT")
    steps.step()
    current.end()
    steps.lossy.lose, steps.lossy.lrange = False, lrange  # type: ignore[attr-defined]
    steps.step()
    assert b"m1" not in steps.view.given_back
    steps.step(5)
    assert steps.view.given_back == [b"m2"], "no fetch is under way that could deliver it"


def flawed(*_: Any) -> Any:
    raise redis.ConnectionError("cut")


def test_a_message_that_the_node_discards_is_removed(steps: Steps) -> None:
    """Equal messages are removed one by one."""
    steps.client.lpush(QUEUE, *[b"garbage"] * 3)
    fetch(steps.client, steps.fetches)
    fetch(steps.client, steps.fetches)
    steps.step()
    assert steps.fetched() == [] and steps.client.llen(QUEUE) == 1 and not steps.view.given_back


def test_only_changes_are_written(steps: Steps) -> None:
    found = []
    for work in ({"b1", "b2"}, {"b1", "b2"}, {"b2"}, {"b2"}):
        steps.view.work = work
        steps.lossy.sent.clear()
        steps.step()
        found.append([each for sent in steps.lossy.sent for each in sent if each in ("SADD", "SREM")])
    assert found == [["SADD"], [], ["SREM"], []]


def test_a_round_is_due_while_something_may_change(steps: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(holdings, "time", SimpleNamespace(monotonic=lambda: ticks.now))
    one, never = steps.box._holdings, float("inf")

    def due_after_a_round() -> list[float]:
        """Without and with reports that wait to be taken; seconds."""
        one.round(steps.view)
        return [one.due(active) - ticks.now for active in (False, True)]

    soon, sooner = pytest.approx(holdings.ROUND_SECONDS), pytest.approx(holdings.HURRY_SECONDS)
    assert due_after_a_round() == [never, soon]
    one.changed()
    assert one.due(False) - ticks.now == soon
    assert due_after_a_round() == [never, soon]
    for _ in range(2):
        steps.client.lpush(QUEUE, b"m1")
        fetch(steps.client, steps.fetches)
    assert one.due(False) - ticks.now == soon, "a message was delivered"
    steps.lossy.lose = True
    with pytest.raises(redis.ConnectionError):
        one.round(steps.view)
    assert one.due(False) - ticks.now == soon, "it is perhaps in the list"
    steps.lossy.lose = False
    assert due_after_a_round() == [never, soon]
    steps.client.lpush(FETCHED, b"m2")
    assert due_after_a_round() == [soon, soon], "it may be delivered"
    steps.client.delete(FETCHED)
    assert due_after_a_round() == [never, soon]
    with monkeypatch.context() as patch:
        patch.setattr(holdings, "REMOVE_BYTES", 1)
        for _ in range(2):
            steps.client.lpush(QUEUE, b"m3")
            fetch(steps.client, steps.fetches)
        one.round(steps.view)
        assert one.due(False) <= ticks.now, "the rest is removed at once"
    assert due_after_a_round() == [never, soon]
    one.hurry()
    assert one.due(False) <= ticks.now and due_after_a_round() == [sooner, sooner]
    one.hurry()
    assert not one.settled


def test_a_node_has_settled_when_a_round_that_began_since_finds_nothing_left(
    steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = steps.box._holdings

    def late() -> set[str]:
        one.hurry()
        return set()

    with monkeypatch.context() as patch:
        patch.setattr(steps.view, "held", late)
        one.round(steps.view)
    assert not one.settled, "it began before the node shut down"
    steps.client.lpush(QUEUE, b"m1")
    current = steps.fetches.begin()
    steps.client.lmove(QUEUE, FETCHED, "RIGHT", "LEFT")
    found = []
    for ends in (False, False, True, False):
        if ends:
            current.end()
        one.round(steps.view)
        found.append((one.settled, len(steps.fetched())))
    assert found == [(False, 1), (False, 1), (True, 0), (True, 0)] and steps.view.given_back == [b"m1"]


def test_a_message_that_was_lost_with_the_keys_is_not_given_back(steps: Steps) -> None:
    """The service sends its calls again, with the same attempts."""
    steps.client.lpush(QUEUE, b"m1")
    current = steps.fetches.begin()
    steps.client.lmove(QUEUE, FETCHED, "RIGHT", "LEFT")
    steps.step(2)
    steps.client.flushall()
    steps.box._presence.beat_soon()
    steps.step()
    current.end()
    steps.step(3)
    assert steps.service.node() is not None and not steps.view.given_back


def test_large_messages_are_removed_by_and_by(steps: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holdings, "REMOVE_BYTES", 250)
    for number in range(5):
        steps.client.lpush(QUEUE, b"%d" % number * 100)
        fetch(steps.client, steps.fetches)
    sizes = []
    while steps.fetched():
        sizes.append(len(steps.fetched()))
        steps.step()
    assert sizes == [5, 3, 1] and not steps.view.given_back
    steps.client.lpush(QUEUE, b"x" * 251)
    fetch(steps.client, steps.fetches)
    steps.step()
    assert not steps.fetched(), "a larger one, too"


def test_reports_of_other_nodes_count_for_positions(steps: Steps, tmp_path: Path) -> None:
    other, _ = make(steps.client, tmp_path / "other", "i2", "n2")
    second = Steps.__new__(Steps)
    second.box, second.client = other, steps.client
    second.step()
    for box, each in ((second, "o1"), (steps, "b1"), (second, "o2"), (steps, "b2")):
        box.box.add(each, [outcome(each)])
        box.step()
    assert sorted(steps.box.held) == ["b1", "b2"] and sorted(other.held) == ["o1", "o2"]
    for taken, left in ((1, ["b1", "b2"]), (1, ["b2"]), (1, ["b2"]), (1, [])):
        steps.service.take(taken)
        steps.step()
        assert sorted(steps.box.held) == left
    second.step()
    assert not other.held and not list(tmp_path.glob("**/*.report"))


def test_after_a_loss_of_keys_everything_is_written_again_before_anything_else(
    steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        steps.box.add(f"b{number}", [outcome(f"t{number}", b"x" * 400_000 if number == 1 else b"")])
        steps.step(20)
    assert not steps.box.unsent and len(steps.box.held) == 3
    steps.view.work.add("running")
    steps.client.flushall()
    # reports of other nodes: positions of before must not count
    steps.client.set(names.applied_key(ENDPOINT), 100)
    order: list[tuple[str, set[str]]] = []
    sender, push = steps.box._delivery._sender, steps.box._delivery._sender.push
    monkeypatch.setattr(
        sender, "push", lambda *data: (order.append(("push", steps.service.held())), push(*data))[1]
    )
    steps.box.add("b3", [outcome("t3")])
    steps.step(20)
    every = {"b0", "b1", "b2", "b3", "running"}
    assert order == [("push", every)] * 4, "what is held was there before each of the reports"
    assert set(steps.box.held) == every - {"running"} and not steps.box.unsent
    assert steps.service.held() == every and steps.service.node() is not None
    found = payloads(steps.service.reports)
    assert [task for _, task, _ in found] == ["t0", "t2", "t3"], "the large one is a pointer"
    assert len(steps.service.frames) == 4 and len(steps.client.keys("*:parts:*")) == 1
    steps.client.set(names.applied_key(ENDPOINT), 104)
    steps.step(2)
    assert not steps.box.held and steps.service.held() == {"running"}


def test_a_push_between_the_loss_and_the_discovery_is_made_again(steps: Steps) -> None:
    steps.client.flushall()
    box = steps.box
    box.add("b1", [outcome("t1")])
    box._wake()
    box._take(box._pause())
    box._spool_items()
    with pytest.raises(KeysLost):
        box._delivery.send(lambda: False)
    assert box.unsent == ["b1"]
    box._presence.beat_soon()
    steps.step(3)
    assert not box.unsent and steps.service.held() == {"b1"}
    assert [task for _, task, _ in payloads(steps.service.reports)] == ["t1", "t1"]


def test_a_message_fetched_before_a_loss_of_keys_is_not_delivered_after_it(steps: Steps) -> None:
    """It was in no place when the node wrote what it holds, so the service may have sent it again."""
    steps.client.lpush(QUEUE, b"m1", b"m2")
    current = steps.fetches.begin()
    steps.client.lmove(QUEUE, FETCHED, "RIGHT", "LEFT")
    steps.client.flushall()
    steps.step(2)
    assert steps.service.node() is not None
    assert not steps.fetches.deliver(current, b"m1", lambda: steps.view.work.add("b1"))
    current.end()
    assert not steps.view.work and not steps.fetches.take()
    # one that the same command moved after the loss is given back
    current = steps.fetches.begin()
    steps.box._presence.lost()
    steps.step()
    steps.client.lpush(QUEUE, b"m3")
    steps.client.lmove(QUEUE, FETCHED, "RIGHT", "LEFT")
    assert not steps.fetches.deliver(current, b"m3", lambda: steps.view.work.add("b3"))
    current.end()
    steps.step(3)
    assert steps.view.given_back == [b"m3"]


def test_rounds_are_made_while_something_changes_only(server: fakeredis.FakeServer, tmp_path: Path) -> None:
    with opened(server, tmp_path) as (box, view, service):
        wait_until(lambda: service.node(), what="the node")
        rounds = count_rounds(box)
        time.sleep(0.3)
        assert len(rounds) == 0
        service.client.lpush(QUEUE, b"m1")
        with fakeredis.FakeRedis(server=server) as client:
            fetch(client, box.fetches)
        view.work.add("b1")
        wait_until(lambda: service.held() == {"b1"} and not service.client.llen(FETCHED), what="it is noted")
        time.sleep(0.2)
        before = len(rounds)
        time.sleep(0.3)
        assert len(rounds) == before <= 6


def count_rounds(box: Outbox) -> list[float]:
    rounds: list[float] = []
    make_round = box._holdings.round

    def counted(view: View) -> int:
        rounds.append(time.monotonic())
        return make_round(view)

    box._holdings.round = counted  # type: ignore[assignment, method-assign]
    return rounds


def test_what_is_left_in_the_list_at_the_end_is_returned(
    server: fakeredis.FakeServer, tmp_path: Path
) -> None:
    with opened(server, tmp_path) as (box, view, service):
        wait_until(lambda: service.node(), what="the node")
        service.client.lpush(QUEUE, b"m1", b"m2", b"m3")
        box.fetches.begin()
        for _ in range(3):
            service.client.lmove(QUEUE, FETCHED, "RIGHT", "LEFT")
        closing = Closing(box)
        wait_until(lambda: service.reports and closing.done, what="the end")
        assert closing.result is True
        assert view.given_back == [b"m1", b"m2", b"m3"] and not service.client.keys("*:fetched:*")
        assert service.reports[-1].goodbye


class Closing:
    """Closes an outbox in another thread."""

    def __init__(self, box: Outbox):
        self.result: bool | None = None
        self._box = box
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def _run(self) -> None:
        self.result = self._box.close(5.0)
