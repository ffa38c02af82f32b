"""Pushing, revoking and finding bundles, and the nodes of endpoints, on a real redis-server."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from federation.broker.client import Broker
from federation.broker.holdings import Pushed
from umbel.protocol import names
from umbel.protocol.node_state import Beat

ONE, TWO = names.new_id(), names.new_id()


@pytest.fixture
def broker(url: str) -> Iterator[Broker]:
    broker = Broker(url)
    broker.redis.flushall()
    broker.holdings.begin_epochs([ONE, TWO], 7)
    yield broker
    broker.close()


def bundle(endpoint_id: str = ONE, epoch: int = 7, body: bytes = b"") -> Pushed:
    id = names.new_id()
    return Pushed(endpoint_id, id, epoch, json.dumps({"headers": {"id": id}}).encode(), body)


def test_a_bundle_is_pushed_in_its_epoch_only(broker: Broker) -> None:
    now, earlier, other = bundle(), bundle(epoch=6), bundle(TWO)
    assert broker.holdings.push([now, earlier, other]) == [1, 0, 1]
    assert broker.redis.lrange(names.queue_key(ONE), 0, -1) == [now.message]
    broker.redis.delete(names.epoch_key(ONE))
    assert broker.holdings.push([bundle()]) == [0], "the keys of the endpoint were lost"
    broker.holdings.begin_epochs([ONE], 8)
    assert broker.holdings.push([bundle(), bundle(epoch=8)]) == [0, 1]


def test_what_was_sent_or_revoked_before_an_epoch_is_forgotten(broker: Broker) -> None:
    sent, revoked = bundle(), bundle()
    broker.holdings.push([sent])
    broker.holdings.revoke_unsent(ONE, [revoked.bundle_id])
    broker.holdings.begin_epochs([ONE], 8)
    assert broker.holdings.sent(ONE) == set()
    assert broker.holdings.push([revoked._replace(epoch=8)]) == [1]


def test_a_body_is_written_with_its_bundle_only(broker: Broker) -> None:
    now, earlier = bundle(body=b"1"), bundle(epoch=6, body=b"2")
    broker.holdings.push([now, earlier])
    assert broker.redis.get(names.body_key(ONE, now.bundle_id)) == b"1"
    assert 0 < broker.redis.ttl(names.body_key(ONE, now.bundle_id))
    assert not broker.redis.exists(names.body_key(ONE, earlier.bundle_id))


def test_what_was_pushed_is_not_revoked_and_what_is_revoked_is_not_pushed(broker: Broker) -> None:
    pushed, late = bundle(), bundle()
    broker.holdings.push([pushed])
    assert broker.holdings.revoke_unsent(ONE, [pushed.bundle_id, late.bundle_id]) == {late.bundle_id}
    assert broker.holdings.push([late]) == [0]
    assert broker.holdings.sent(ONE) == {pushed.bundle_id}
    broker.holdings.forget_sent(ONE, [pushed.bundle_id])
    assert broker.holdings.sent(ONE) == set()
    assert broker.holdings.revoke_unsent(ONE, []) == set()


@pytest.mark.parametrize("key", [names.queue_key, names.sent_key, names.revoked_key, names.epoch_key])
def test_a_key_of_another_type_is_a_fault_of_its_endpoint_only(broker: Broker, key: object) -> None:
    broker.redis.delete(key(ONE))  # type: ignore[operator]
    broker.redis.zadd(key(ONE), {"x": 1})  # type: ignore[operator]
    ours, others = bundle(), bundle(TWO)
    first, second = broker.holdings.push([ours, others])
    assert first < 1 and second == 1
    if key is not names.sent_key:
        assert broker.holdings.sent(ONE) == set(), "it was not pushed, and can be revoked"


def test_bundles_are_found_where_nodes_have_them(broker: Broker) -> None:
    fetched, noted = bundle(), names.new_id()
    broker.redis.lpush(names.fetched_key(ONE, "i1"), fetched.message, b"garbage")
    broker.redis.sadd(names.held_key(ONE, "i1"), noted, b"\xff", "x" * 100)
    broker.redis.set(names.fetched_key(ONE, "i2"), "x")
    broker.redis.lpush(names.held_key(ONE, "i2"), "x")
    found = broker.holdings.at_instances(ONE, ["i1", "i2", "i3"])
    assert found == {"i1": {fetched.bundle_id, noted}, "i2": set(), "i3": set()}
    assert not broker.redis.exists(names.fetched_key(ONE, "i2"), names.held_key(ONE, "i2"))


def announce(broker: Broker, endpoint_id: str, instance: str, beat: bytes = Beat(1, 5, 2).write()) -> None:
    broker.redis.hset(names.nodes_key(endpoint_id), instance, f"description of {instance}")
    broker.redis.hset(names.beats_key(endpoint_id), instance, beat)


def test_only_instances_with_a_description_beat(broker: Broker) -> None:
    announce(broker, ONE, "i1")
    announce(broker, ONE, "i2", b"nonsense")
    broker.redis.hset(names.beats_key(ONE), "i3", Beat(1, 1).write())
    broker.redis.set(names.beats_key(TWO), "x")
    states = broker.node_states
    assert states.with_nodes([ONE, TWO, names.new_id()]) == [ONE, TWO]
    found = states.beats([ONE, TWO])
    assert (found[ONE].epoch, found[ONE].beats) == (7, {"i1": Beat(1, 5, 2)})
    assert found[TWO].beats == {} and not broker.redis.exists(names.beats_key(TWO))
    assert states.descriptions(ONE, ["i1", "i4"]) == {"i1": b"description of i1"}
    broker.redis.set(names.epoch_key(ONE), "nonsense")
    assert states.beats([ONE])[ONE].epoch == 0


def test_an_instance_is_removed_with_all_its_keys(broker: Broker) -> None:
    for instance in ("i1", "i2"):
        announce(broker, ONE, instance)
        broker.redis.sadd(names.held_key(ONE, instance), names.new_id())
        broker.redis.lpush(names.fetched_key(ONE, instance), b"x")
    broker.node_states.confirm(ONE, ["i1", "i2"])
    broker.node_states.confirm(ONE, [])
    assert set(broker.node_states.beats([ONE])[ONE].beats) == {"i1", "i2"}
    broker.node_states.remove(ONE, ["i1"])
    assert broker.redis.hkeys(names.beats_key(ONE)) == broker.redis.hkeys(names.nodes_key(ONE)) == [b"i2"]
    assert set(broker.node_states.beats([ONE])[ONE].beats) == {"i2"}
    assert broker.redis.smembers(names.known_key(ONE)) == {b"i2"}
    assert not broker.redis.exists(names.held_key(ONE, "i1"), names.fetched_key(ONE, "i1"))
    assert broker.redis.exists(names.held_key(ONE, "i2"), names.fetched_key(ONE, "i2")) == 2


def test_a_key_of_another_type_does_not_keep_an_instance_from_being_removed(broker: Broker) -> None:
    announce(broker, ONE, "i1")
    broker.node_states.confirm(ONE, ["i1"])
    broker.redis.delete(names.beats_key(ONE))
    broker.redis.set(names.beats_key(ONE), "x")
    broker.node_states.remove(ONE, ["i1"])
    assert not broker.redis.exists(names.nodes_key(ONE), names.known_key(ONE))
