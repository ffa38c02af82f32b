"""Parked requests are resumed once: by news, or at their deadlines, whatever the order of both."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.wait import wait_until
from webapp.long_polls import Wait
from webapp.parking import Entry, Parking


class Request:
    """Counts how often it was resumed, and when last."""

    def __init__(self) -> None:
        self.resumed, self.at = 0, 0.0

    def resume(self) -> None:
        self.resumed += 1
        self.at = time.monotonic()


class News:
    """The subscription of a wait; ``come`` is what the notifier does."""

    def __init__(self, there: bool = False) -> None:
        self._there = there
        self.come: Callable[[], object] = lambda: None

    def call_once(self, callback: Callable[[], object]) -> None:
        self.come = callback
        if self._there:
            callback()


def wait_for(seconds: float, news: Any = None) -> Wait:
    wait = Wait()
    wait.deadline, wait.subscription = time.monotonic() + seconds, news or News()
    return wait


class CountedParking(Parking):
    """Counts the rounds of its thread."""

    rounds = 0

    def _wait_for_due(self) -> list[Entry]:
        self.rounds += 1
        return super()._wait_for_due()


@pytest.fixture
def parking(caplog: pytest.LogCaptureFixture) -> Iterator[CountedParking]:
    parking = CountedParking()
    yield parking
    parking.stop()
    assert not parking._thread.is_alive()
    assert not caplog.records, "the thread failed"


def test_news_resume_a_request_once(parking: CountedParking) -> None:
    request, news = Request(), News()
    entry = Entry(request)
    parking.park(entry, wait_for(60.0, news))
    assert not entry.resumed and request.resumed == 0
    news.come()
    news.come()
    assert entry.resumed and request.resumed == 1


def test_news_that_came_before_resume_it_at_once(parking: CountedParking) -> None:
    request = Request()
    parking.park(Entry(request), wait_for(60.0, News(there=True)))
    assert request.resumed == 1


@pytest.mark.parametrize("order", [(60.0, 0.3, 0.6, 0.1), (60.0, 0.3, 0.1)])
def test_deadlines_are_kept_in_any_order(parking: CountedParking, order: tuple[float, ...]) -> None:
    began = time.monotonic()
    requests = {seconds: Request() for seconds in order}
    news = News()
    for seconds, request in requests.items():
        parking.park(Entry(request), wait_for(seconds, news if seconds > 1 else None))
    short = sorted(order)[:-1]
    wait_until(lambda: requests[short[-1]].resumed == 1, what="the deadlines")
    for seconds in short:
        assert requests[seconds].resumed == 1 and requests[seconds].at - began >= seconds
    assert requests[60.0].resumed == 0
    news.come()
    assert requests[60.0].resumed == 1


def test_a_deadline_and_news_resume_a_request_once(parking: CountedParking) -> None:
    request, news = Request(), News()
    parking.park(Entry(request), wait_for(0.05, news))
    wait_until(lambda: request.resumed == 1, what="the deadline")
    news.come()
    assert request.resumed == 1


def test_waiting_costs_nothing(parking: CountedParking) -> None:
    time.sleep(0.1)
    request = Request()
    parking.park(Entry(Request()), wait_for(60.0))
    parking.park(Entry(request), wait_for(0.3))
    wait_until(lambda: request.resumed == 1, what="the deadline")
    assert parking.rounds < 15


def test_requests_count_until_they_are_answered(parking: CountedParking) -> None:
    first, second = wait_for(60.0), wait_for(60.0)
    for wait in (first, second):
        parking.park(Entry(Request()), wait)
    parking.leave(first)
    assert not parking.wait_until_empty(0.01)
    later = threading.Timer(0.2, parking.leave, (second,))
    later.start()
    began = time.monotonic()
    assert parking.wait_until_empty(60.0) and time.monotonic() - began < 30.0
    later.join()
    parking.leave(second)


def test_stopping_resumes_nothing_by_itself(parking: CountedParking) -> None:
    """The notifier wakes all of them."""
    request = Request()
    parking.park(Entry(request), wait_for(60.0))
    began = time.monotonic()
    parking.stop()
    assert time.monotonic() - began < 4.0 and request.resumed == 0
