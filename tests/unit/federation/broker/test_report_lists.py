"""Reading and removing reports, on a real redis-server with an endpoint's own account."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from federation.broker import report_lists
from federation.broker.client import Broker
from federation.registry.broker_accounts import rules
from umbel.protocol import names
from umbel.protocol.node_state import NODE_NEWS


@pytest.fixture
def broker(url: str) -> Iterator[Broker]:
    broker = Broker(url)
    broker.redis.flushall()
    yield broker
    broker.close()


def account(broker: Broker, endpoint_id: str) -> redis.Redis:
    """A connection with the account of an endpoint."""
    user = names.broker_user(endpoint_id)
    words = rules(endpoint_id, hashlib.sha256(b"pw").hexdigest())
    broker.redis.execute_command("ACL", "SETUSER", user, *words)
    return redis.Redis.from_url(f"redis://{user}:pw@{broker.address}/0")


ONE, TWO, THREE = names.new_id(), names.new_id(), names.new_id()


def push(broker: Broker, endpoint_id: str, *reports: bytes) -> None:
    for report in reports:
        broker.redis.lpush(names.reports_key(endpoint_id), report)


def test_they_stay_until_they_are_removed(broker: Broker) -> None:
    push(broker, ONE, b"a", b"b", b"c")
    push(broker, TWO, b"d")
    lists = broker.report_lists
    assert lists.waiting([ONE, TWO, names.new_id()]) == {ONE: 3, TWO: 1}
    first, second = lists.read("c0", [ONE, TWO])
    assert (first.reports, second.reports) == ([b"a", b"b", b"c"], [b"d"])
    push(broker, ONE, b"e")
    lists.remove("c0", [(first, 2), (second, 1)], ["g"])
    assert broker.redis.lrange(names.reports_key(ONE), 0, -1) == [b"e", b"c"]
    assert broker.redis.mget(names.applied_key(ONE), names.applied_key(TWO)) == [b"2", b"1"]


def test_a_claim_is_one_collectors_and_a_namesake_takes_it_over(broker: Broker) -> None:
    push(broker, ONE, b"a")
    lists = broker.report_lists
    (unread,) = lists.read("c0", [ONE])
    assert lists.read("c1", [ONE]) == []
    assert lists.read("c0", [ONE]) == [unread], "the restarted c0"
    assert 0 < broker.redis.pttl(f"umbel:claim:{ONE}") <= report_lists.CLAIM_SECONDS * 1000
    lists.remove("c0", [(unread, 0)], [])
    assert lists.read("c1", [ONE]) == [unread]


def test_what_another_collector_removed_is_not_removed_twice(broker: Broker) -> None:
    push(broker, ONE, b"a", b"b", b"c")
    lists = broker.report_lists
    (slow,) = lists.read("c0", [ONE])
    broker.redis.delete(f"umbel:claim:{ONE}")  # it expires
    (fast,) = lists.read("c1", [ONE])
    lists.remove("c1", [(fast, 2)], [])
    lists.remove("c0", [(slow, 2)], [])
    assert broker.redis.lrange(names.reports_key(ONE), 0, -1) == [b"c"]


def test_endpoints_share_a_batch(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_lists, "READ_COUNT", 4)
    push(broker, ONE, *[b"%d" % number for number in range(100)])
    push(broker, TWO, b"one")
    first, second = broker.report_lists.read("c0", [ONE, TWO])
    assert (len(first.reports), first.waiting, second.reports) == (2, 100, [b"one"])
    (alone,) = broker.report_lists.read("c0", [ONE])
    assert len(alone.reports) == 4
    monkeypatch.setattr(report_lists, "READ_BYTES", 10)
    push(broker, THREE, b"x" * 3, b"y" * 3)
    first, second = broker.report_lists.read("c0", [THREE, TWO])
    assert (first.reports, first.waiting, second.reports) == ([b"x" * 3], 2, [b"one"])


def test_any_number_of_lists_is_looked_at(broker: Broker) -> None:
    some = [names.new_id() for _ in range(2002)]
    for endpoint_id in some[998:]:
        push(broker, endpoint_id, b"a")
    assert broker.report_lists.waiting(some) == dict.fromkeys(some[998:], 1)


def test_a_look_at_empty_lists_is_a_few_commands(broker: Broker) -> None:
    some = [names.new_id() for _ in range(2000)]
    push(broker, some[1500], b"a")
    broker.redis.sadd(names.beats_key(some[700]), "x")
    broker.report_lists.waiting(some)
    broker.redis.config_resetstat()
    assert broker.report_lists.waiting(some) == {some[1500]: 1}
    assert broker.node_states.with_nodes(some) == [some[700]]
    calls = {name: each["calls"] for name, each in broker.redis.info("commandstats").items()}
    sent = calls.get("cmdstat_evalsha", 0) + calls.get("cmdstat_eval", 0)
    assert sent <= 5 and calls["cmdstat_llen"] <= 100 and calls["cmdstat_exists"] <= 140


def test_what_is_too_large_is_not_sent(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_lists, "MAX_REPORT_BYTES", 1000)
    monkeypatch.setattr(report_lists, "READ_BYTES", 1500)
    push(broker, ONE, b"x" * 5000, b"a" * 800, b"b" * 800)
    (unread,) = broker.report_lists.read("c0", [ONE])
    assert unread.reports == [5000, b"a" * 800], "the size alone, and no more than the batch may have"
    broker.report_lists.remove("c0", [(unread, 1)], [])
    assert broker.redis.llen(names.reports_key(ONE)) == 2
    monkeypatch.setattr(report_lists, "LIST_BYTES", 1500)
    (unread,) = broker.report_lists.read("c0", [ONE])
    assert (unread.reports, unread.waiting) == ([], 0) and "too large" in str(unread.fault)
    assert not broker.redis.exists(names.reports_key(ONE))


def test_what_is_no_list_is_a_fault_of_its_endpoint_only(broker: Broker) -> None:
    account(broker, ONE).set(names.reports_key(ONE), "x")
    broker.redis.set(names.applied_key(ONE), 7)
    broker.redis.hset(names.beats_key(ONE), "i", "x")
    push(broker, TWO, b"d")
    assert broker.report_lists.waiting([ONE, TWO]) == {ONE: 1, TWO: 1}
    first, second = broker.report_lists.read("c0", [ONE, TWO])
    assert first.fault is not None and first.reports == [] and second.reports == [b"d"]
    assert broker.report_lists.waiting([ONE, TWO]) == {TWO: 1}, "and it is gone"
    broker.report_lists.remove("c0", [(first, 0), (second, 1)], [])
    assert broker.report_lists.waiting([ONE, TWO]) == {}
    assert (first.waiting, second.waiting) == (0, 1)
    assert not report_lists.is_wrong_type(redis.exceptions.OutOfMemoryError("OOM"))
    assert report_lists.is_wrong_type(redis.ResponseError("WRONGTYPE Operation against a key"))
    # nodes that miss their beats announce themselves again, and push what was in it
    assert not broker.redis.exists(names.applied_key(ONE), names.beats_key(ONE))


def test_a_counter_that_is_none_is_deleted(broker: Broker) -> None:
    account(broker, ONE).set(names.applied_key(ONE), "x")
    push(broker, ONE, b"a", b"b")
    (unread,) = broker.report_lists.read("c0", [ONE])
    broker.report_lists.remove("c0", [(unread, 2)], [])
    assert not broker.redis.exists(names.reports_key(ONE), names.applied_key(ONE))


def test_a_full_broker_can_be_emptied(broker: Broker) -> None:
    push(broker, ONE, b"a", b"b")
    broker.redis.config_set("maxmemory", "1mb")
    try:
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            push(broker, ONE, b"c")
        (unread,) = broker.report_lists.read("c0", [ONE])
        assert unread.reports == [b"a", b"b"]
        broker.report_lists.remove("c0", [(unread, 2)], ["g"])
        assert broker.redis.llen(names.reports_key(ONE)) == 0
    finally:
        broker.redis.config_set("maxmemory", "0")


def test_news_of_endpoints_arrive_and_nothing_else_does(broker: Broker) -> None:
    news = report_lists.NewsListener(broker)
    try:
        assert news.wait(0.0) == (set(), set())
        with account(broker, ONE) as own:
            own.publish(names.news_channel(ONE), b"")
            own.publish(names.news_channel(ONE), NODE_NEWS)
            own.publish(f"/ep:{ONE}:other:news", b"")
            with pytest.raises(redis.exceptions.NoPermissionError):
                own.publish(names.news_channel(TWO), b"")
        assert news.wait(10.0) == ({ONE}, {ONE})
        assert news.wait(0.0) == (set(), set())
    finally:
        news.close()


def test_waiting_for_news_lasts_until_the_first_one(broker: Broker) -> None:
    news = report_lists.NewsListener(broker)
    later = threading.Timer(0.3, broker.redis.publish, (names.news_channel(ONE), b""))
    try:
        news.wait(0.0)
        later.start()
        began = time.monotonic()
        assert news.wait(60.0) == ({ONE}, set()) and time.monotonic() - began < 30.0
        times = []
        for _ in range(5):
            broker.redis.publish(names.news_channel(TWO), b"")
            began = time.monotonic()
            assert news.wait(60.0) == ({TWO}, set())
            times.append(time.monotonic() - began)
        assert min(times) < 0.9, "it waited for more"
    finally:
        later.join()
        news.close()


def test_news_are_subscribed_to_again_after_an_error() -> None:
    opened: list[Any] = []

    def fail(timeout: float) -> None:
        raise redis.ConnectionError("broken")

    def pubsub(**_: Any) -> Any:
        closed: list[bool] = []
        one = SimpleNamespace(psubscribe=lambda *_: None, close=lambda: closed.append(True), closed=closed)
        one.get_message = (lambda timeout: None) if opened else fail
        opened.append(one)
        return one

    news = report_lists.NewsListener(SimpleNamespace(redis=SimpleNamespace(pubsub=pubsub)))
    with pytest.raises(redis.ConnectionError):
        news.wait(0.0)
    assert news.wait(0.0) == (set(), set())
    assert [one.closed for one in opened] == [[True], []]


@pytest.mark.parametrize(
    "command",
    [
        ("LRANGE", names.reports_key(TWO), 0, -1),
        ("LPOP", names.reports_key(ONE)),
        ("BLMOVE", names.queue_key(TWO), names.queue_key(ONE), "RIGHT", "LEFT", 0.01),
        ("SISMEMBER", names.sent_key(TWO), "x"),
        ("LPUSH", names.reports_key(TWO), "x"),
        ("LPUSH", "umbel:reports", "x"),
        ("SETRANGE", names.parts_key(TWO, ONE), 0, "x"),
        ("DEL", f"umbel:claim:{ONE}"),
        ("HGETALL", "umbel:collectors"),
    ],
    ids=lambda command: " ".join(map(str, command[:2])).replace(TWO, "other"),
)
def test_an_endpoint_may_do_nothing_beyond_its_prefix(broker: Broker, command: tuple[str, ...]) -> None:
    with account(broker, ONE) as own:
        assert own.lpush(names.reports_key(ONE), "x") == 1
        assert own.setrange(names.parts_key(ONE, TWO), 3, "x") == 4
        with pytest.raises(redis.exceptions.NoPermissionError):
            own.execute_command(*command)
