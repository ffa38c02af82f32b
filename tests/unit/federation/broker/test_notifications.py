"""Stopping a notifier, without a broker; what polls see of it is in ``contract/test_api_waiting.py``."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from federation.broker.notifications import Notifier
from tests.support.wait import wait_until


class FakeBroker:
    """Its own Redis client and subscription, in which no message ever arrives."""

    def __init__(self) -> None:
        self.redis = self
        self.listening, self.closed = threading.Event(), threading.Event()
        self.opened = self.looks = 0

    def pubsub(self, **_: Any) -> FakeBroker:
        self.opened += 1
        return self

    def __enter__(self) -> FakeBroker:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed.set()

    def subscribe(self, channel: str) -> None:
        pass

    def get_message(self, timeout: float) -> None:
        self.listening.set()
        self.looks += 1
        threading.Event().wait(timeout)


@pytest.fixture
def broker() -> FakeBroker:
    return FakeBroker()


def test_stopping_wakes_all_polls_which_then_see_that_it_stopped(broker: FakeBroker) -> None:
    notifier = Notifier(broker)  # type: ignore[arg-type]
    seen: list[bool] = []
    with notifier.subscribe("a") as first, notifier.subscribe("b", "c") as second:
        second.call_once(lambda: seen.append(notifier.stopped))
        notifier.stop()
        assert first.wait(0) and second.wait(0)
    assert seen == [True]


def test_silence_does_not_end_the_subscription(broker: FakeBroker) -> None:
    notifier = Notifier(broker)  # type: ignore[arg-type]
    wait_until(lambda: broker.looks >= 3, what="the notifier to look for messages")
    notifier.stop()
    assert broker.opened == 1


def test_stopping_releases_the_connection(broker: FakeBroker) -> None:
    notifier = Notifier(broker)  # type: ignore[arg-type]
    assert broker.listening.wait(10)
    notifier.stop()
    assert broker.closed.is_set()


def test_a_subscription_that_was_closed_leaves_nothing(broker: FakeBroker) -> None:
    notifier = Notifier(broker)  # type: ignore[arg-type]
    first, second = notifier.subscribe("a", "b"), notifier.subscribe("b")
    for _ in range(2):
        first.close()
    assert notifier._subscriptions == {"b": {second}}
    notifier.stop()
    assert second.wait(0) and not first.wait(0)
