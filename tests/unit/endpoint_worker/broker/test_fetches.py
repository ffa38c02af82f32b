"""Fetches: what was delivered, what is still to be delivered, and what must not be."""

from __future__ import annotations

import pytest

from endpoint_worker.broker import fetches as module
from endpoint_worker.broker.fetches import LEASE_SECONDS, Fetches


def nothing() -> None:
    pass


def test_a_delivered_message_is_noted_once_and_wakes_once_per_batch() -> None:
    woken: list[str] = []
    fetches = Fetches("e", "i", lambda: woken.append("woken"))
    for raw in (b"1", b"2"):
        fetch = fetches.begin()
        assert fetches.ended < fetches.issued
        assert fetches.deliver(fetch, raw, nothing)
        fetch.end()
        fetch.end()
        assert fetches.ended == fetches.issued
    assert fetches.waiting and woken == ["woken"]
    assert fetches.take() == [b"1", b"2"] and fetches.take() == [] and not fetches.waiting


def test_an_error_before_the_node_has_received_the_message_leaves_it_undelivered() -> None:
    fetches = Fetches("e", "i")

    def flawed() -> None:
        raise ConnectionError("an event cannot be sent")

    def received_and_flawed() -> None:
        fetches.received()
        raise SystemExit

    with pytest.raises(ConnectionError):
        fetches.deliver(fetches.begin(), b"1", flawed)
    assert fetches.take() == []
    with pytest.raises(SystemExit):
        fetches.deliver(fetches.begin(), b"2", received_and_flawed)
    assert fetches.take() == [b"2"]


def test_a_fetch_of_a_connection_that_is_gone_delivers_nothing() -> None:
    fetches = Fetches("e", "i")
    first = fetches.begin()
    second = fetches.begin()
    assert (fetches.issued, fetches.ended) == (2, 1)
    assert not fetches.deliver(first, b"1", nothing) and fetches.deliver(second, b"2", nothing)
    first.end()
    assert (fetches.ended, fetches.take()) == (1, [b"2"])


def test_nothing_is_delivered_after_the_end_or_a_loss_of_keys() -> None:
    fetches = Fetches("e", "i")
    assert not fetches.allowed
    fetches.allow()
    assert fetches.allowed
    fetch = fetches.begin()
    fetches.invalidate()
    assert not fetches.deliver(fetch, b"1", nothing)
    fetch = fetches.begin()
    assert fetches.deliver(fetch, b"2", nothing)
    fetch.end()
    fetch = fetches.begin()
    fetches.stop()
    fetches.allow()
    assert not fetches.allowed and not fetches.deliver(fetch, b"3", nothing)
    assert fetches.ended == fetches.issued and fetches.take() == [b"2"]


def test_a_node_without_beats_fetches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was suspended, and the service may consider it lost."""
    now = 100.0
    monkeypatch.setattr(module, "steady", lambda: now)
    fetches = Fetches("e", "i")
    assert not fetches.allowed
    fetches.allow()
    now += LEASE_SECONDS - 1
    assert fetches.allowed
    fetches.renew(now - 1)
    now += LEASE_SECONDS - 2
    assert fetches.allowed
    now += 2
    assert not fetches.allowed
    fetches.renew(now)
    assert fetches.allowed
    fetches.forbid()
    fetches.renew(now)
    assert not fetches.allowed
