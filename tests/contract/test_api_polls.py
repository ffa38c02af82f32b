"""Long polls: they wait for news, hear of it at once, and give up their place."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from federation.broker.notifications import Subscription
from federation.db.statements import observed
from federation.registry.users import User, ensure_user
from tests.support.api import Api
from tests.support.wait import wait_until
from umbel.protocol.errors import TooMany
from webapp.app import RESERVED_THREADS
from webapp.long_polls import LongPolls


def started(api: Api, polls: LongPolls, group: str, **more: Any) -> Future[Any]:
    """A poll in a thread of its own that has looked into the ledger and waits."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(polls.results(api.user, group, after=0, wait=30, limit=10, **more))
        except BaseException as error:
            future.set_exception(error)

    before = WAITS.count
    threading.Thread(target=run, daemon=True).start()
    wait_until(lambda: WAITS.count > before or future.done(), what="the poll to wait")
    return future


class Waits:
    """Counts how often anybody began to wait for news."""

    count = 0


WAITS = Waits()


@pytest.fixture(autouse=True)
def _count_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    wait = Subscription.wait

    def counted(watch: Subscription, timeout: float) -> bool:
        WAITS.count += 1
        return wait(watch, timeout)

    monkeypatch.setattr(Subscription, "wait", counted)


def watched(api: Api) -> int:
    """How many polls watch a group."""
    return sum(map(len, api.notifier._subscriptions.values()))


@pytest.fixture
def group(api: Api) -> str:
    """A group with one task that waits at the played endpoint ``lab``."""
    api.endpoint("lab").beat()
    return str(api.submit("lab", b"1")["group_id"])


def test_a_poll_without_wait_is_answered_at_once(api: Api, group: str) -> None:
    before = time.monotonic()
    answer = api.ada.ok("GET", f"/v1/groups/{group}/results")
    assert answer["results"] == [] and answer["live"] > 0
    assert time.monotonic() - before < 2


def test_a_poll_waits_as_long_as_it_was_told(api: Api, group: str) -> None:
    before = time.monotonic()
    assert api.ada.ok("GET", f"/v1/groups/{group}/results?wait=0.3")["results"] == []
    assert 0.3 <= time.monotonic() - before < 3


def test_news_end_a_poll_at_once(api: Api, group: str) -> None:
    waiting = started(api, polls_of(api), group)
    before = time.monotonic()
    api._played[0].play()
    answer = waiting.result(timeout=10)
    assert len(answer["results"]) == 1 and answer["results"][0]["result"] == b"1"
    assert time.monotonic() - before < 3


def test_a_waiting_poll_asks_the_database_nothing(api: Api, group: str) -> None:
    waiting = started(api, polls_of(api), group)
    looked = threading.Event()
    with observed(lambda *_: looked.set()):
        api.fed.broker.notify(["another"])
        assert not looked.wait(0.3) and not waiting.done()
        api.fed.broker.notify([group])
        assert looked.wait(5)
    api.notifier.stop()
    assert waiting.result(timeout=5)["results"] == []


def test_stopping_answers_all_polls(api: Api, group: str) -> None:
    waiting = [started(api, polls_of(api), group) for _ in range(3)]
    api.notifier.stop()
    assert [future.result(timeout=5)["results"] for future in waiting] == [[], [], []]
    assert watched(api) == 0


def test_a_poll_whose_client_is_gone_gives_up_its_place(
    api: Api, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webapp.long_polls.CLIENT_CHECK_INTERVAL", 0.05)
    gone = threading.Event()
    waiting = started(api, polls_of(api), group, gone=gone.is_set)
    gone.set()
    assert waiting.result(timeout=5)["results"] == []


def test_polls_leave_threads_to_others(api: Api, group: str) -> None:
    polls = LongPolls(api.fed, api.notifier, slots=1)
    waiting = started(api, polls, group)
    with pytest.raises(TooMany) as caught:
        polls.results(api.user, group, after=0, wait=30, limit=10)
    assert caught.value.details["retry_after"] > 0
    assert polls.results(api.user, group, after=0, wait=0, limit=10)["results"] == []
    api._played[0].play()
    assert len(waiting.result(timeout=5)["results"]) == 1
    # who finds results needs no place, and the place is free again
    assert len(polls.results(api.user, group, after=0, wait=30, limit=10)["results"]) == 1
    assert polls.results(api.user, group, after=1, wait=0.01, limit=10)["results"] == []


def test_the_server_reserves_threads(api: Api) -> None:
    assert polls_of(api).slots == api.fed.settings.web_threads - RESERVED_THREADS


def test_a_hundred_polls_hear_of_their_own_results(api: Api) -> None:
    api.endpoint("lab").beat()
    polls = LongPolls(api.fed, api.notifier, slots=200)
    groups = [api.submit("lab", b"%d" % number)["group_id"] for number in range(25)]
    with ThreadPoolExecutor(100) as pool:
        waiting = [pool.submit(poll(polls, api.user, group)) for group in groups for _ in range(4)]
        wait_until(lambda: watched(api) == 100, what="all polls to wait")
        while api._played[0].play():
            pass
        answers = [future.result(timeout=20) for future in waiting]
    assert [len(answer["results"]) for answer in answers] == [1] * 100


def poll(polls: LongPolls, user: User, group: str) -> Callable[[], Any]:
    return lambda: polls.results(user, group, after=0, wait=30, limit=10)


def polls_of(api: Api) -> LongPolls:
    found: LongPolls = api.app.extensions["umbel"].polls
    return found


def test_a_stranger_waits_for_nothing(api: Api, group: str) -> None:
    stranger = ensure_user(api.fed, "eve")
    before = time.monotonic()
    assert api.bob("GET", f"/v1/groups/{group}/results?wait=30").status_code == 404
    assert stranger.no != api.user.no and time.monotonic() - before < 2
