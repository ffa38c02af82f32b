"""The embedded web server: waiting polls cost no thread, and no news is missed between a look and a wait."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from waitress.channel import HTTPChannel

from federation.broker.notifications import Notifier, Subscription
from federation.db.tables import tokens
from federation.ledger import results
from tests.support.api import Api
from tests.support.wait import wait_until
from tests.support.web_server import serving
from umbel.protocol.errors import TooMany
from webapp import long_polls
from webapp.long_polls import LongPolls, Parked, Places, Wait

POLLS = 200


@pytest.fixture
def port(api: Api) -> Iterator[int]:
    with serving(api) as port:
        yield port


@pytest.fixture
def group(api: Api) -> str:
    """A group with one task that waits at the played endpoint ``lab``."""
    api.endpoint("lab").beat()
    return str(api.submit("lab", b"1")["group_id"])


class Poll:
    """A request that was sent and not answered yet."""

    def __init__(self, api: Api, port: int, group: str, wait: float = 30.0):
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        path = f"/v1/groups/{group}/results?wait={wait:g}"
        self._connection.request("GET", path, headers=api.ada.headers)

    def answer(self) -> tuple[int, Any]:
        response = self._connection.getresponse()
        data = json.loads(response.read())
        self._connection.close()
        return response.status, data

    def abandon(self) -> None:
        self._connection.close()


def lone_call(api: Api, port: int) -> float:
    """Seconds that one small request takes on a new connection."""
    before = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/v1/whoami", headers=api.ada.headers)
    assert connection.getresponse().status == 200
    connection.close()
    return time.monotonic() - before


def watched(api: Api) -> int:
    return sum(map(len, api.notifier._subscriptions.values()))


def test_hundreds_of_waiting_polls_leave_lone_calls_fast(api: Api, port: int, group: str) -> None:
    assert api.fed.settings.web_threads < POLLS
    waiting = [Poll(api, port, group) for _ in range(POLLS)]
    wait_until(lambda: watched(api) == POLLS, 20, what="all polls to wait")
    assert min(lone_call(api, port) for _ in range(10)) < 0.2
    api._played[0].play()
    answers = [poll.answer() for poll in waiting]
    assert [(status, len(page["results"])) for status, page in answers] == [(200, 1)] * POLLS
    assert watched(api) == 0


def test_a_parked_poll_is_answered_at_its_deadline(api: Api, port: int, group: str) -> None:
    before = time.monotonic()
    polls = [Poll(api, port, group, 0.5) for _ in range(10)]
    assert [poll.answer()[1]["results"] for poll in polls] == [[]] * 10
    assert 0.5 <= time.monotonic() - before < 5
    assert watched(api) == 0


def test_a_poll_whose_client_is_gone_leaves_nothing(api: Api, port: int, group: str) -> None:
    polls = [Poll(api, port, group) for _ in range(20)]
    wait_until(lambda: watched(api) == 20, what="the polls to wait")
    for poll in polls:
        poll.abandon()
    wait_until(lambda: watched(api) == 0, what="the polls to be forgotten")


def test_the_next_poll_of_a_connection_may_wait_before_the_last_one_is_put_away(
    api: Api, port: int, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client reads the response and polls again before the thread that wrote it goes on."""
    service, answered = HTTPChannel.service, []

    def slow(self: Any) -> None:
        service(self)
        answered.append(self)
        if len(answered) == 1:
            wait_until(lambda: watched(api) == 1, what="the next poll to wait")

    monkeypatch.setattr(HTTPChannel, "service", slow)
    monkeypatch.setattr(long_polls, "QUICK_WAIT", 0.0)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    for after in range(2):
        path = f"/v1/groups/{group}/results?wait=30&after={after}"
        sent = time.time()
        connection.request("GET", path, headers=api.ada.headers)
        if after:
            wait_until(lambda: answered[0].since > sent, what="the first poll to be put away")
            api.submit("lab", b"2", group_id=group)
        else:
            wait_until(lambda: watched(api) == 1, what="the first poll to wait")
        api._played[0].play()
        page = json.loads(connection.getresponse().read())
        assert [row["completion"] for row in page["results"]] == [after + 1]
    connection.close()


def test_other_news_do_not_end_a_parked_poll(api: Api, port: int, group: str) -> None:
    poll = Poll(api, port, group)
    wait_until(lambda: watched(api) == 1, what="the poll to wait")
    for _ in range(20):
        api.fed.broker.notify([group])
        lone_call(api, port)
    api._played[0].play()
    assert len(poll.answer()[1]["results"]) == 1


def test_a_token_that_was_revoked_ends_its_parked_poll(
    api: Api, port: int, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(long_polls, "QUICK_WAIT", 0.0)
    poll = Poll(api, port, group)
    wait_until(lambda: watched(api) == 1, what="the poll to wait")
    with api.fed.database.write() as connection:
        connection.execute(tokens.update().values(revoked=time.time()))
    api._played[0].play()
    assert poll.answer()[0] == 401
    wait_until(lambda: watched(api) == 0, what="the place to be free")


def test_stopping_answers_parked_polls(api: Api, port: int, group: str) -> None:
    polls = [Poll(api, port, group) for _ in range(60)]
    wait_until(lambda: watched(api) == 60, what="the polls to wait")
    api.notifier.stop()
    assert [poll.answer()[0] for poll in polls] == [200] * 60


def test_a_user_cannot_take_all_places(api: Api) -> None:
    places = Places(8)
    other = api.user._replace(no=api.user.no + 1)
    releases = [places.take(api.user) for _ in range(4)]
    with pytest.raises(TooMany):
        places.take(api.user)
    places.take(other)
    places.take(other)
    with pytest.raises(TooMany):
        places.take(other)
    assert places.taken == 6
    for release in releases:
        release()
    assert places.taken == 2
    places.take(other)


def test_a_full_house_is_429_and_the_place_comes_back(api: Api, group: str) -> None:
    with serving(api, connections=64) as port:  # 32 places, of which one user gets half
        waiting = [Poll(api, port, group) for _ in range(16)]
        wait_until(lambda: watched(api) == 16, what="the polls to wait")
        status, error = Poll(api, port, group).answer()
        assert (status, error["code"]) == (429, "TOO_MANY_REQUESTS")
        waiting.pop().abandon()
        wait_until(lambda: watched(api) == 15, what="the place to be free")
        waiting.append(Poll(api, port, group))
        wait_until(lambda: watched(api) == 16, what="another poll to wait")
        api._played[0].play()
        assert [poll.answer()[0] for poll in waiting] == [200] * 16


@pytest.mark.parametrize("parking", [False, True])
def test_news_between_the_look_and_the_wait_are_not_missed(
    api: Api, group: str, monkeypatch: pytest.MonkeyPatch, parking: bool
) -> None:
    """The result is stored and announced just after the ledger was read."""
    read = results.results_after
    looks = []

    def look(*args: Any) -> Any:
        page = read(*args)
        looks.append(page)
        if len(looks) == 1:
            api._played[0].play()
            subscriptions = list(api.notifier._subscriptions.get(group, ()))
            wait_until(lambda: all(each.wait(0) for each in subscriptions), what="the announcement")
        return page

    monkeypatch.setattr(results, "results_after", look)
    monkeypatch.setattr(long_polls, "QUICK_WAIT", 0.0)
    polls = LongPolls(api.fed, api.notifier, slots=2, places=2)
    wait, done = Wait(), threading.Event()
    place = {"after": 0, "wait": 5.0, "limit": 10, "parking": wait if parking else None}
    before = time.monotonic()
    while True:
        try:
            page = polls.results(api.user, group, **place)  # type: ignore[arg-type]
            break
        except Parked:
            assert wait.subscription is not None
            wait.subscription.call_once(done.set)
            assert done.wait(2), "the poll was not told of news that came before it was parked"
    assert len(page["results"]) == 1 and time.monotonic() - before < 4
    assert looks[0]["results"] == []


def test_news_that_end_no_poll_run_it_once(api: Api, group: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A poll that was woken and found nothing is parked until the next news, not run again at once."""
    monkeypatch.setattr(long_polls, "QUICK_WAIT", 0.0)
    polls = LongPolls(api.fed, api.notifier, slots=2, places=2)
    wait, woken = Wait(), threading.Event()
    for _ in range(3):
        with pytest.raises(Parked):
            polls.results(api.user, group, after=0, wait=30.0, limit=10, parking=wait)
        assert wait.subscription is not None
        woken.clear()
        wait.subscription.call_once(woken.set)
        assert not woken.is_set(), "the news of which the poll was told before wake it again"
        wait.subscription.notify()
        assert woken.is_set()
    wait.close()


def test_a_new_subscription_wakes_all_polls(api: Api) -> None:
    """Announcements may have been missed while the broker's connection was down."""
    with api.notifier.subscribe("a") as first, api.notifier.subscribe("b") as second:
        connected(api.notifier, first)
        for subscription in (first, second):
            subscription.clear()
        assert api.fed.broker.redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub") >= 1
        assert first.wait(10) and second.wait(10)


def test_a_notifier_that_comes_back_after_a_failure_wakes_all_polls(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    with api.notifier.subscribe("a") as subscription:
        connected(api.notifier, subscription)
        monkeypatch.setattr(Notifier, "_notify", failing(Notifier._notify))
        api.fed.broker.notify(["b"])  # the thread raises, is guarded and listens again
        subscription.clear()
        assert subscription.wait(10)


def connected(notifier: Notifier, subscription: Subscription) -> None:
    """Wait until the notifier listens."""

    def announced() -> bool:
        notifier._broker.notify(["a"])
        return subscription.wait(0.2)

    wait_until(announced, what="the notifier to listen")
    subscription.clear()


def failing(method: Callable[..., Any]) -> Callable[..., Any]:
    """``method``, which raises the first time."""
    failures = iter([RuntimeError("unexpected")])

    def replaced(*args: Any) -> Any:
        for failure in failures:
            raise failure
        return method(*args)

    return replaced
