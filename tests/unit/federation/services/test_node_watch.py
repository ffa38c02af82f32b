"""When a node is silent, and what of it is written to the ledger."""

from __future__ import annotations

import json
from typing import Any
from unittest import mock

import pytest
import redis
from sqlalchemy import delete, select

from federation.db.tables import nodes
from federation.ledger import node_rows
from federation.registry import endpoints as registry
from federation.services import node_watch
from federation.services.endpoint_keys import EndpointKeys
from federation.services.node_watch import MAX_GAP, SEEN_INTERVAL, NodeWatch
from tests.support.endpoint import FakeEndpoint, FakeNode
from tests.support.ledger import Ledger
from tests.unit.federation.services.conftest import Ticks
from umbel.protocol import names
from umbel.protocol.envelope import Signer, new_private_key
from umbel.protocol.limits import HEARTBEAT_INTERVAL
from umbel.protocol.node_state import Beat

LOST_AFTER = 60.0


@pytest.fixture
def watch(ledger: Ledger, ticks: Ticks) -> NodeWatch:
    assert ledger.fed.settings.node_lost_after == LOST_AFTER
    return NodeWatch(ledger.fed, EndpointKeys(ledger.fed), ticks)


def _look(watch: NodeWatch, ticks: Ticks, lab: FakeEndpoint, seconds: float = 0.0) -> None:
    """Look, and let time pass with a look often enough."""
    watch.look([lab.id])
    while seconds > 0:
        step = min(10.0, seconds)
        ticks.now += step
        seconds -= step
        watch.look([lab.id])


def _silent(ledger: Ledger, watch: NodeWatch, lab: FakeEndpoint) -> list[str]:
    with ledger.fed.database.read() as connection:
        live = node_rows.live_instances(connection, lab.no)
    return sorted(row.name for row in watch.silent_nodes(lab.id, live))


def _rows(ledger: Ledger) -> list[Any]:
    with ledger.fed.database.read() as connection:
        return list(connection.execute(select(nodes).order_by(nodes.c.name)))


def _known(node: FakeNode) -> set[bytes]:
    return set(node.redis.smembers(names.known_key(node.endpoint.id)))


def test_a_beat_that_stays_the_same_is_silence(
    ledger: Ledger, watch: NodeWatch, ticks: Ticks, lab: FakeEndpoint
) -> None:
    lab.node("still")
    moving = lab.node("moving")
    _look(watch, ticks, lab, 30)
    moving.beat()
    _look(watch, ticks, lab, 30)
    assert _silent(ledger, watch, lab) == []
    _look(watch, ticks, lab, 0.5)
    assert _silent(ledger, watch, lab) == ["still"]
    _look(watch, ticks, lab, 29.5)
    assert _silent(ledger, watch, lab) == ["still"]
    _look(watch, ticks, lab, 10)
    assert _silent(ledger, watch, lab) == ["moving", "still"]


@pytest.mark.parametrize(
    ("gap", "counts"), [(MAX_GAP, True), (MAX_GAP + 0.5, False), (0.0, False)], ids=["none", "gap", "error"]
)
def test_silence_counts_only_without_a_gap(
    ledger: Ledger, watch: NodeWatch, ticks: Ticks, lab: FakeEndpoint, gap: float, counts: bool
) -> None:
    lab.node()
    _look(watch, ticks, lab, 50)
    ticks.now += gap
    if gap:
        watch.look([lab.id])
    else:
        watch.interrupted()
    assert _silent(ledger, watch, lab) == (["n1"] if counts else [])
    _look(watch, ticks, lab, 60)
    assert _silent(ledger, watch, lab) == (["n1"] if counts else [])
    _look(watch, ticks, lab, 1)
    assert _silent(ledger, watch, lab) == ["n1"]


def test_with_a_short_limit_shorter_gaps_count(
    ledger: Ledger, ticks: Ticks, lab: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the limit, so that one look that was missed does not make a node lost."""
    object.__setattr__(ledger.fed.settings, "node_lost_after", 8.0)
    watch = NodeWatch(ledger.fed, EndpointKeys(ledger.fed), ticks)
    lab.node()
    watch.look([lab.id])
    for step, silent in ((4.0, []), (4.5, []), (4.0, []), (4.0, []), (0.5, ["n1"])):
        ticks.now += step
        watch.look([lab.id])
        assert _silent(ledger, watch, lab) == silent


def test_silence_of_another_epoch_does_not_count(
    ledger: Ledger, watch: NodeWatch, ticks: Ticks, lab: FakeEndpoint
) -> None:
    lab.node()
    _look(watch, ticks, lab, 59)
    ledger.broker.holdings.begin_epochs([lab.id], 7)
    _look(watch, ticks, lab, 60)
    assert _silent(ledger, watch, lab) == []
    _look(watch, ticks, lab, 1)
    assert _silent(ledger, watch, lab) == ["n1"]


def test_a_node_without_a_beat_is_silent_from_the_first_look_that_misses_it(
    ledger: Ledger, watch: NodeWatch, ticks: Ticks, lab: FakeEndpoint
) -> None:
    node = lab.node()
    _look(watch, ticks, lab, 55)
    ledger.broker.node_states.remove(lab.id, [node.instance])
    _look(watch, ticks, lab, 5)
    assert _silent(ledger, watch, lab) == []
    _look(watch, ticks, lab, 60)
    assert _silent(ledger, watch, lab) == []
    _look(watch, ticks, lab, 1)
    assert _silent(ledger, watch, lab) == ["n1"]


def test_nothing_is_known_of_an_endpoint_that_was_not_looked_at(
    ledger: Ledger, watch: NodeWatch, ticks: Ticks, lab: FakeEndpoint
) -> None:
    lab.node()
    ledger.collect()
    ticks.now += 1000
    watch.look([])
    assert _silent(ledger, watch, lab) == [] and watch.watched(lab.id) is None
    watch.forget(lab.id, ["any"])


def test_a_new_node_is_recorded_and_confirmed(
    ledger: Ledger, watch: NodeWatch, ticks: Ticks, lab: FakeEndpoint
) -> None:
    node = lab.node(slots=3)
    assert not _known(node)
    _look(watch, ticks, lab)
    (row,) = _rows(ledger)
    assert (row.name, row.instance, row.slots, row.live) == ("n1", node.instance, 3, 1)
    assert _known(node) == {node.instance.encode()}


def test_a_process_that_sees_a_node_first_confirms_it_again(
    ledger: Ledger, watch: NodeWatch, ticks: Ticks, lab: FakeEndpoint
) -> None:
    """The first one may have ended before it did."""
    node = lab.node()
    ledger.collect()
    node.redis.delete(names.known_key(lab.id))
    _look(watch, ticks, lab)
    assert _known(node) == {node.instance.encode()}


def test_a_node_is_confirmed_although_the_broker_fails_once(
    ledger: Ledger, watch: NodeWatch, ticks: Ticks, lab: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = lab.node()
    states = ledger.fed.broker.node_states
    with monkeypatch.context() as patch:
        patch.setattr(states, "confirm", mock.Mock(side_effect=redis.ConnectionError("connection refused")))
        with pytest.raises(redis.ConnectionError):
            _look(watch, ticks, lab)
    assert len(_rows(ledger)) == 1 and not _known(node)
    node.beat()
    _look(watch, ticks, lab)
    assert _known(node) == {node.instance.encode()}


def test_a_node_is_confirmed_once(
    ledger: Ledger, watch: NodeWatch, ticks: Ticks, lab: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = lab.node()
    _look(watch, ticks, lab)
    confirm = mock.Mock()
    monkeypatch.setattr(ledger.fed.broker.node_states, "confirm", confirm)
    for _ in range(3):
        node.beat()
        _look(watch, ticks, lab, 10.0)
    assert not any(call.args[1] for call in confirm.call_args_list)


def test_only_what_has_changed_is_written(
    ledger: Ledger, watch: NodeWatch, ticks: Ticks, lab: FakeEndpoint
) -> None:
    node = lab.node(slots=3)
    _look(watch, ticks, lab)
    begun = _rows(ledger)[0].seen

    def after(seconds: float) -> Any:
        ticks.now += seconds
        ledger.clock.forward(seconds)
        node.beat()
        watch.look([lab.id])
        (row,) = _rows(ledger)
        return round(row.seen - begun), row.busy

    assert after(5) == (0, 0), "nothing but the counter has changed"
    assert after(SEEN_INTERVAL - 6) == (0, 0)
    assert after(1) == (20, 0)
    ledger.submit(lab, 1)
    node.take()
    assert after(1) == (21, 1), "how many slots are in use is written at once"
    assert after(1) == (21, 1)
    node.finish()
    assert after(1) == (23, 0)


def test_nothing_is_written_while_nothing_changes(
    ledger: Ledger, watch: NodeWatch, ticks: Ticks, lab: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = lab.node()
    _look(watch, ticks, lab)
    write = mock.Mock(wraps=ledger.fed.database.write)
    monkeypatch.setattr(ledger.fed.database, "write", write)
    for _ in range(3):
        ticks.now += 1.0
        node.beat()
        watch.look([lab.id])
    assert not write.called


def test_calls_that_wait_for_a_node_are_sent_when_it_is_recorded(
    ledger: Ledger, watch: NodeWatch, ticks: Ticks, lab: FakeEndpoint
) -> None:
    ledger.submit(lab, 1000)
    before = lab.queued_calls()
    lab.node(slots=50)
    _look(watch, ticks, lab)
    assert before < lab.queued_calls() <= 1000


def test_a_changed_clock_is_written_at_once(
    ledger: Ledger, watch: NodeWatch, ticks: Ticks, lab: FakeEndpoint
) -> None:
    node = lab.node()
    _look(watch, ticks, lab)
    found = []
    for number, ahead in enumerate((0.4, 7200.0, 7200.4), 100):
        ticks.now += 1.0
        beat = Beat(1, number, clock_ahead=ahead).write()
        node.redis.hset(names.beats_key(lab.id), node.instance, beat)
        watch.look([lab.id])
        found.append(json.loads(_rows(ledger)[0].vitals)["clock_ahead"])
    assert found == [0.0, 7200.0, 7200.0]


def test_with_a_short_limit_beats_are_recorded_more_often(
    ledger: Ledger, ticks: Ticks, lab: FakeEndpoint
) -> None:
    """A node whose beats were not recorded for ``node_lost_after`` is shown as offline."""
    object.__setattr__(ledger.fed.settings, "node_lost_after", 6.0)
    watch = NodeWatch(ledger.fed, EndpointKeys(ledger.fed), ticks)
    node = lab.node()
    watch.look([lab.id])
    for _ in range(10):
        ticks.now += 2.0
        ledger.clock.forward(2.0)
        node.beat()
        watch.look([lab.id])
        (shown,) = ledger.nodes(lab)
        assert shown["live"]


def _reads(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The instances whose descriptions are read from now on."""
    found: list[list[str]] = []
    read = ledger.broker.node_states.descriptions
    monkeypatch.setattr(
        ledger.broker.node_states, "descriptions", lambda *args: (found.append(args[1]), read(*args))[1]
    )
    return found


def test_a_new_epoch_changes_no_description(
    ledger: Ledger, watch: NodeWatch, ticks: Ticks, lab: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a rollback of the ledger, the keys are still there."""
    node = lab.node()
    reads = _reads(ledger, monkeypatch)
    _look(watch, ticks, lab)
    ledger.broker.holdings.begin_epochs([lab.id], 7)
    node.beat()
    _look(watch, ticks, lab)
    assert reads == [[node.instance]]


def test_a_changed_description_is_read_and_recorded(
    ledger: Ledger, watch: NodeWatch, ticks: Ticks, lab: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = lab.node()
    _look(watch, ticks, lab)
    reads = _reads(ledger, monkeypatch)
    node.slots = 7
    node.beat(memory=5)
    _look(watch, ticks, lab)
    (row,) = _rows(ledger)
    assert (row.slots, '"memory": 5' in row.facts) == (7, True)
    assert reads == [[node.instance]]
    _look(watch, ticks, lab)
    assert len(reads) == 1


def test_a_description_that_is_newer_than_the_beat_is_read_once(
    ledger: Ledger, watch: NodeWatch, ticks: Ticks, lab: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was written between the look at the beats and the look at the descriptions."""
    node = lab.node()
    _look(watch, ticks, lab)
    reads = _reads(ledger, monkeypatch)
    old = node.redis.hget(names.beats_key(lab.id), node.instance)
    for _ in range(3):
        node.beat()
    node.slots = 7
    node.beat(memory=5)
    new = node.redis.hget(names.beats_key(lab.id), node.instance)
    node.redis.hset(names.beats_key(lab.id), node.instance, old.replace(b"1:1:", b"2:2:"))
    _look(watch, ticks, lab)
    assert _rows(ledger)[0].slots == 7
    node.redis.hset(names.beats_key(lab.id), node.instance, new)
    _look(watch, ticks, lab)
    assert _rows(ledger)[0].version == node.beats and reads == [[node.instance]]


def test_a_description_that_is_older_than_the_beat_is_read_again(
    ledger: Ledger, watch: NodeWatch, ticks: Ticks, lab: FakeEndpoint
) -> None:
    node = lab.node()
    node.redis.hset(names.beats_key(lab.id), node.instance, Beat(5, 100).write())
    _look(watch, ticks, lab)
    assert _rows(ledger)[0].slots == 2
    node.beats, node.slots = 4, 7
    node.beat(memory=5)
    _look(watch, ticks, lab)
    assert _rows(ledger)[0].slots == 7


def test_a_node_that_announces_itself_again_is_confirmed_again(
    ledger: Ledger, watch: NodeWatch, ticks: Ticks, lab: FakeEndpoint
) -> None:
    node = lab.node()
    _look(watch, ticks, lab)
    node.redis.flushall()
    node.beat()
    assert not _known(node)
    _look(watch, ticks, lab)
    assert _known(node) == {node.instance.encode()}


def test_a_node_that_another_process_could_not_confirm_again_is_confirmed(
    ledger: Ledger, watch: NodeWatch, ticks: Ticks, lab: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has recorded the new description and ended."""
    node, other = lab.node(), NodeWatch(ledger.fed, EndpointKeys(ledger.fed), ticks)
    for each in (watch, other):
        _look(each, ticks, lab)
    node.redis.flushall()
    node.beat()
    with monkeypatch.context() as patch:
        refused = mock.Mock(side_effect=redis.ConnectionError("connection refused"))
        patch.setattr(ledger.fed.broker.node_states, "confirm", refused)
        with pytest.raises(redis.ConnectionError):
            _look(other, ticks, lab)
    assert _rows(ledger)[0].version == node.beats and not _known(node)
    _look(watch, ticks, lab)
    assert _known(node) == {node.instance.encode()}


def test_a_description_of_somebody_else_is_rejected_once(
    ledger: Ledger, watch: NodeWatch, ticks: Ticks, lab: FakeEndpoint
) -> None:
    good = lab.node("good")
    key, lab.signer = lab.signer, Signer(new_private_key())
    bad = lab.node("bad")
    _look(watch, ticks, lab)
    for _ in range(3):
        bad.beat()
        _look(watch, ticks, lab)
    assert [row.name for row in _rows(ledger)] == ["good"] and _known(good) == {good.instance.encode()}
    assert len(ledger.broker.dead_letters.latest(lab.id)) == 1
    lab.signer = key
    bad.beat(memory=1)
    _look(watch, ticks, lab)
    assert [row.name for row in _rows(ledger)] == ["bad", "good"]


def test_nodes_of_an_endpoint_that_is_not_registered_are_not_read(
    ledger: Ledger, watch: NodeWatch, ticks: Ticks, lab: FakeEndpoint, caplog: pytest.LogCaptureFixture
) -> None:
    """It was deleted since its id was read."""
    node, unknown = lab.node(), names.new_id()
    for key in (names.beats_key, names.nodes_key):
        value = node.redis.hget(key(lab.id), node.instance)
        node.redis.hset(key(unknown), node.instance, value)
    caplog.clear()
    watch.look([unknown])
    watched = watch.watched(unknown)
    assert watched is not None and [each.state for each in watched.instances.values()] == [None]
    assert not caplog.records and not _rows(ledger)
    assert not ledger.broker.dead_letters.latest(unknown)


def test_a_node_that_announces_itself_while_its_endpoint_is_deleted_is_not_recorded(
    ledger: Ledger, watch: NodeWatch, ticks: Ticks, lab: FakeEndpoint
) -> None:
    """The key of the endpoint is still cached."""
    other = ledger.endpoint("other")
    for each in (lab, other):
        each.node("n1")
        _look(watch, ticks, each)
    registry.delete(ledger.fed, ledger.me, lab.id)
    late, good = lab.node("late"), other.node("good")
    for each in (lab, other):
        _look(watch, ticks, each)
    found = {row.name for row in _rows(ledger)}
    assert "late" not in found and "good" in found and not _known(late)
    assert good.instance.encode() in _known(good)


def test_a_missing_description_is_rejected(
    ledger: Ledger, watch: NodeWatch, ticks: Ticks, lab: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.node()
    monkeypatch.setattr(ledger.broker.node_states, "descriptions", lambda *_: {})
    _look(watch, ticks, lab)
    assert not _rows(ledger)
    assert "missing" in ledger.broker.dead_letters.latest(lab.id)[0]["reason"]


def test_a_fault_of_one_endpoint_is_not_that_of_others(
    ledger: Ledger,
    watch: NodeWatch,
    ticks: Ticks,
    lab: FakeEndpoint,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    other = ledger.endpoint("other")
    lab.node("n1")
    other.node("n2")
    record = node_rows.record_description

    def flawed(connection: Any, endpoint_no: int, *more: Any) -> bool:
        if endpoint_no == lab.no:
            raise KeyError("a bug")
        return record(connection, endpoint_no, *more)

    monkeypatch.setattr(node_watch.node_rows, "record_description", flawed)
    watch.look([lab.id, other.id])
    assert [row.name for row in _rows(ledger)] == ["n2"]
    assert lab.id in caplog.text


def test_a_node_that_was_lost_comes_back_when_it_beats(
    ledger: Ledger, watch: NodeWatch, ticks: Ticks, lab: FakeEndpoint
) -> None:
    """A process that sees it for the first time cannot know whether it does."""
    node = lab.node()
    _look(watch, ticks, lab)
    (row,) = _rows(ledger)
    with ledger.fed.database.write() as connection:
        assert node_rows.record_loss(connection, row.no, row.instance, 5.0)
    watch.look([lab.id])
    NodeWatch(ledger.fed, EndpointKeys(ledger.fed), ticks).look([lab.id])
    assert not _rows(ledger)[0].live
    node.beat()
    _look(watch, ticks, lab)
    assert (_rows(ledger)[0].live, _rows(ledger)[0].lost) == (1, 5.0)


def test_an_instance_that_was_replaced_is_neither_recorded_nor_confirmed(
    ledger: Ledger, watch: NodeWatch, ticks: Ticks, lab: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although it goes on beating."""
    node = lab.node()
    _look(watch, ticks, lab)
    old = node.instance
    node.restart()
    new = node.instance
    _look(watch, ticks, lab)
    node.redis.delete(names.known_key(lab.id))
    record = mock.Mock(wraps=node_rows.record_description)
    monkeypatch.setattr(node_watch.node_rows, "record_description", record)
    beats = mock.Mock(wraps=node_rows.record_beats)
    monkeypatch.setattr(node_watch.node_rows, "record_beats", beats)
    for each in (watch, NodeWatch(ledger.fed, EndpointKeys(ledger.fed), ticks)):
        for number in range(2):
            ticks.now += SEEN_INTERVAL
            node.redis.hset(names.beats_key(lab.id), old, Beat(1, 100 + number).write())
            node.beat()
            _look(each, ticks, lab)
    assert not record.called and {row[1] for call in beats.call_args_list for row in call.args[1]} == {new}
    assert _known(node) == {new.encode()}


def test_a_node_whose_row_was_deleted_is_recorded_when_it_beats(
    ledger: Ledger, watch: NodeWatch, ticks: Ticks, lab: FakeEndpoint
) -> None:
    """What is left of it in the broker says nothing about whether it lives."""
    node, other = lab.node(), lab.node("n2")
    _look(watch, ticks, lab)
    with ledger.fed.database.write() as connection:
        connection.execute(delete(nodes).where(nodes.c.name == "n1"))
    other.beat()
    _look(watch, ticks, lab)
    assert [row.name for row in _rows(ledger)] == ["n2"]
    node.beat()
    _look(watch, ticks, lab)
    assert [row.name for row in _rows(ledger)] == ["n1", "n2"]


def _ended(ledger: Ledger, watch: NodeWatch, lab: FakeEndpoint, *instances: str) -> list[bool]:
    watched = watch.watched(lab.id)
    assert watched is not None
    states = [each.state for each in watched.instances.values()]
    with ledger.fed.database.read() as connection:
        rows = node_rows.rows_of(connection, lab.no, [state.node for state in states if state])
    beats = ledger.broker.node_states.beats([lab.id])[lab.id].beats
    return [watch.has_ended(watched, each, beats[each], rows) for each in instances]


def test_an_instance_that_was_replaced_has_ended(
    ledger: Ledger, watch: NodeWatch, ticks: Ticks, lab: FakeEndpoint
) -> None:
    node = lab.node()
    _look(watch, ticks, lab)
    old = node.instance
    node.restart()
    _look(watch, ticks, lab)
    assert _ended(ledger, watch, lab, old, node.instance) == [True, False]
    _look(watch, ticks, lab, 100)
    assert _ended(ledger, watch, lab, node.instance) == [False], "it is the live one until it is lost"


def test_an_instance_that_was_lost_has_ended_unless_it_beats(
    ledger: Ledger, watch: NodeWatch, ticks: Ticks, lab: FakeEndpoint
) -> None:
    node = lab.node()
    _look(watch, ticks, lab)
    (row,) = _rows(ledger)
    with ledger.fed.database.write() as connection:
        node_rows.record_loss(connection, row.no, row.instance, 5.0)
    _look(watch, ticks, lab, 2 * HEARTBEAT_INTERVAL)
    assert _ended(ledger, watch, lab, node.instance) == [False]
    _look(watch, ticks, lab, 0.5)
    assert _ended(ledger, watch, lab, node.instance) == [True]
    node.beat()
    assert _ended(ledger, watch, lab, node.instance) == [False], "it has beaten since the last look"


def test_an_instance_that_the_ledger_does_not_know_ends_by_silence(
    ledger: Ledger, watch: NodeWatch, ticks: Ticks, lab: FakeEndpoint
) -> None:
    lab.signer = Signer(new_private_key())
    node = lab.node()
    _look(watch, ticks, lab, LOST_AFTER)
    assert _ended(ledger, watch, lab, node.instance) == [False]
    _look(watch, ticks, lab, 0.5)
    assert _ended(ledger, watch, lab, node.instance) == [True]
    watch.forget(lab.id, [node.instance])
    assert _ended(ledger, watch, lab, node.instance) == [False]


def test_an_instance_that_cannot_be_recorded_ends_by_silence(
    ledger: Ledger, watch: NodeWatch, ticks: Ticks, lab: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger knows an earlier one of its node only."""
    node = lab.node()
    _look(watch, ticks, lab)
    flawed = mock.Mock(side_effect=KeyError("a bug"))
    monkeypatch.setattr(node_watch.node_rows, "record_description", flawed)
    node.restart()
    _look(watch, ticks, lab, LOST_AFTER)
    assert flawed.called and _ended(ledger, watch, lab, node.instance) == [False]
    _look(watch, ticks, lab, 0.5)
    assert _ended(ledger, watch, lab, node.instance) == [True]
