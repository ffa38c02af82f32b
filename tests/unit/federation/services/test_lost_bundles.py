"""When endpoints are checked, and how lost bundles are sent again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis
from sqlalchemy import select, update

from federation.db.tables import bundles, endpoints
from federation.ledger import node_rows
from federation.services import lost_bundles
from federation.services.endpoint_keys import EndpointKeys
from federation.services.lost_bundles import MAX_PAUSE, OFFLINE_INTERVAL, LostBundles, begin_epoch
from federation.services.node_watch import NodeWatch
from tests.support.endpoint import FakeEndpoint, FakeNode
from tests.support.ledger import Ledger
from tests.unit.federation.services.conftest import Ticks
from umbel.protocol import names

RESEND_AFTER = 10.0


class Checks:
    """The check of all endpoints, with the looks at nodes that belong to it."""

    def __init__(self, ledger: Ledger, ticks: Ticks):
        self.ledger, self.ticks = ledger, ticks
        self.watch = NodeWatch(ledger.fed, EndpointKeys(ledger.fed), ticks)
        self.lost = LostBundles(ledger.fed, self.watch, ticks)

    def check(self, after: float = 0.0, *present: FakeNode) -> None:
        """Check after so many seconds, in which these nodes beat."""
        self.ticks.now += after
        self.ledger.clock.forward(after)
        for node in present:
            node.beat()
        with self.ledger.fed.database.read() as connection:
            known = list(connection.execute(select(endpoints.c.id)).scalars())
        self.watch.look(known)
        self.lost.check()


@pytest.fixture
def checks(ledger: Ledger, ticks: Ticks) -> Checks:
    assert ledger.fed.settings.resend_after == RESEND_AFTER
    return Checks(ledger, ticks)


def _epoch(ledger: Ledger, lab: FakeEndpoint) -> int:
    with ledger.fed.database.read() as connection:
        return int(connection.execute(select(endpoints.c.epoch).where(endpoints.c.no == lab.no)).scalar_one())


def _attempts(ledger: Ledger, answer: dict[str, Any]) -> set[int]:
    return {int(ledger.task(task_id)["attempt"]) for task_id in answer["task_ids"]}


def _lost_on_the_way(ledger: Ledger, lab: FakeEndpoint, calls: int, **options: Any) -> dict[str, Any]:
    ledger.broker.deaf = True
    answer = ledger.submit(lab, calls, **options)
    ledger.broker.deaf = False
    return answer


@pytest.fixture
def checked(checks: Checks, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The endpoints that are checked, in order."""
    found: list[str] = []
    sent = checks.ledger.broker.holdings.sent

    def note(endpoint_id: str) -> set[str]:
        found.append(endpoint_id)
        return sent(endpoint_id)

    monkeypatch.setattr(checks.ledger.broker.holdings, "sent", note)
    return found


def test_endpoints_with_open_calls_are_checked(
    ledger: Ledger, checks: Checks, checked: list[str], lab: FakeEndpoint
) -> None:
    ledger.endpoint("other").node()
    node = lab.node()
    checks.check()
    assert checked == []
    ledger.submit(lab, 1)
    for _ in range(2):
        checks.check(0.1, node)
    assert checked == [lab.id, lab.id]
    node.take()
    node.finish()
    ledger.collect()
    checks.check(0.1, node)
    assert checked == [lab.id, lab.id]


def test_an_endpoint_without_nodes_is_checked_rarely(
    ledger: Ledger, checks: Checks, checked: list[str], lab: FakeEndpoint
) -> None:
    ledger.submit(lab, 1)
    checks.check()
    checks.check(OFFLINE_INTERVAL - 1)
    assert checked == [lab.id]
    checks.check(1)
    assert checked == [lab.id, lab.id]
    checks.lost.clear()
    checks.check()
    assert len(checked) == 3


def test_slow_checks_are_made_rarely(
    ledger: Ledger, checks: Checks, lab: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They take a twentieth of the time. One that was interrupted for an hour delays the next one little."""
    node, began, seconds = lab.node(), [], [1.0, 1.0, 3600.0, 1.0]
    checks.check()
    ledger.submit(lab, 1)

    def slow(*_: Any) -> bool:
        began.append(checks.ticks.now)
        checks.ticks.now += seconds[len(began) - 1]
        return True

    monkeypatch.setattr(checks.lost, "_check", slow)
    while len(began) < 4:
        checks.check(1.0, node)
    assert [later - first for first, later in zip(began, began[1:])] == [20.0, 20.0, 3600.0 + MAX_PAUSE]


def test_a_fault_of_one_endpoint_is_not_that_of_others(
    ledger: Ledger,
    checks: Checks,
    lab: FakeEndpoint,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    other = ledger.endpoint("other")
    found: list[str] = []

    def flawed(no: int, endpoint_id: str, epoch: int) -> bool:
        if no == lab.no:
            raise KeyError("a bug")
        found.append(endpoint_id)
        return True

    monkeypatch.setattr(checks.lost, "_check", flawed)
    for each in (lab, other):
        ledger.submit(each, 1)
    checks.check()
    assert found == [other.id] and lab.id in caplog.text
    caplog.clear()
    checks.check(OFFLINE_INTERVAL - 1)
    assert found == [other.id] * 2 and not caplog.text, "its next check is not due"
    checks.check(1)
    assert lab.id in caplog.text
    monkeypatch.setattr(checks.lost, "_check", lambda *_: (_ for _ in ()).throw(redis.ConnectionError()))
    with pytest.raises(redis.ConnectionError):
        checks.check()


def test_what_was_sent_just_now_is_not_examined(ledger: Ledger, checks: Checks, lab: FakeEndpoint) -> None:
    node = lab.node()
    checks.check()
    answer = _lost_on_the_way(ledger, lab, 1)
    checks.check(RESEND_AFTER - 1, node)
    assert not node.redis.exists(names.revoked_key(lab.id))
    checks.check(2, node)
    assert len(node.take()) == 1 and _attempts(ledger, answer) == {1}


def test_bundles_are_sent_again_in_batches(
    ledger: Ledger, checks: Checks, lab: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lost_bundles, "BATCH", 2)
    sizes: list[int] = []
    again = checks.lost._send_some_again

    def note(no: int, epoch: int, bundle_nos: list[int], node: str | None) -> int:
        sizes.append(len(bundle_nos))
        return again(no, epoch, bundle_nos, node)

    monkeypatch.setattr(checks.lost, "_send_some_again", note)
    node = lab.node(slots=5)
    checks.check()
    answer = _lost_on_the_way(ledger, lab, 5, max_attempts=1)
    checks.check(RESEND_AFTER + 1, node)
    assert sizes == [2, 2, 1] and _attempts(ledger, answer) == {1}
    assert sum(len(bundle.calls) for bundle in node.take()) == 5


def test_two_sweepers_send_the_calls_of_a_bundle_again_once(
    ledger: Ledger, checks: Checks, lab: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database gives the number of the lost bundle to the one that the first sweeper sends."""
    node = lab.node()
    other = Checks(ledger, checks.ticks)
    for each in (checks, other):
        each.check(0.0, node)
    answer = _lost_on_the_way(ledger, lab, 1, max_attempts=1)
    real = checks.lost._send_again

    def send_again(*args: Any) -> None:
        other.lost.check()
        assert node.take(), "what the other sweeper has sent"
        real(*args)

    monkeypatch.setattr(checks.lost, "_send_again", send_again)
    checks.check(RESEND_AFTER + 1, node)
    assert _attempts(ledger, answer) == {1}
    assert not node.take(), "the call runs already"


def test_keys_that_are_lost_during_a_check_are_no_lost_bundles(
    ledger: Ledger, checks: Checks, lab: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = lab.node()
    checks.check(0.0, node)
    answer = ledger.submit(lab, 1, max_attempts=1)
    assert node.take()
    holdings = ledger.broker.holdings
    real = holdings.revoke_unsent

    def revoke_unsent(endpoint_id: str, ids: Any) -> set[str]:
        for key in list(node.redis.scan_iter(match=names.prefix(lab.id) + "*")):
            node.redis.delete(key)
        return real(endpoint_id, ids)

    monkeypatch.setattr(holdings, "revoke_unsent", revoke_unsent)
    checks.check(RESEND_AFTER + 1, node)
    monkeypatch.setattr(holdings, "revoke_unsent", real)
    for _ in range(4):
        checks.check(5.0, node)
    node.finish()
    node.beat()
    ledger.collect()
    assert ledger.task(answer["task_ids"][0])["state"] == "succeeded"
    assert not node.take(), "the call was not sent again"


def test_nothing_is_sent_again_after_the_epoch_has_ended(
    ledger: Ledger, checks: Checks, lab: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another sweeper has noticed a loss of keys since this one looked."""
    node = lab.node()
    checks.check()
    answer = _lost_on_the_way(ledger, lab, 1)
    send = checks.lost._send_again

    def late(no: int, endpoint_id: str, epoch: int, lost: Any) -> None:
        begin_epoch(ledger.fed, no, endpoint_id, epoch)
        send(no, endpoint_id, epoch, lost)

    monkeypatch.setattr(checks.lost, "_send_again", late)
    sends = ledger.broker.sends
    checks.check(RESEND_AFTER + 1, node)
    assert ledger.broker.sends == sends and ledger.state(answer) == "dispatched"


def test_a_bundle_must_be_missing_all_the_time(ledger: Ledger, checks: Checks, lab: FakeEndpoint) -> None:
    """One that is found again starts over."""
    node = lab.node()
    checks.check()
    answer = ledger.submit(lab, 1, max_attempts=2)
    checks.check(RESEND_AFTER + 1, node)
    queue = names.queue_key(lab.id)
    message = node.redis.rpop(queue)
    checks.check(1, node)
    checks.check(RESEND_AFTER - 1, node)
    node.redis.rpush(queue, message)
    checks.check(1, node)
    node.redis.rpop(queue)
    checks.check(1, node)
    checks.check(RESEND_AFTER - 0.5, node)
    assert not node.redis.exists(queue) and _attempts(ledger, answer) == {1}
    checks.check(1, node)
    assert node.redis.exists(queue) and _attempts(ledger, answer) == {2}


def _without_a_beat(checks: Checks, lab: FakeEndpoint, node: FakeNode) -> None:
    node.redis.hdel(names.beats_key(lab.id), node.instance)
    checks.check()


def _with_another_epoch(checks: Checks, lab: FakeEndpoint, node: FakeNode) -> None:
    node.redis.delete(names.epoch_key(lab.id))
    checks.check()


@pytest.mark.parametrize(
    "interruption",
    [_without_a_beat, _with_another_epoch, lambda checks, lab, node: checks.lost.clear()],
    ids=["no beat", "epoch", "rollback"],
)
def test_a_bundle_must_be_missing_without_an_interruption(
    ledger: Ledger,
    checks: Checks,
    lab: FakeEndpoint,
    interruption: Callable[[Checks, FakeEndpoint, FakeNode], None],
) -> None:
    node, gone = lab.node(), lab.node("gone")
    checks.check(0.0, gone)
    answer = ledger.submit(lab, 1, max_attempts=2)
    checks.check(1, node)
    with ledger.fed.database.write() as connection:
        rows = {row.instance: row for row in node_rows.live_instances(connection, lab.no)}
        row = rows[gone.instance]
        node_rows.record_loss(connection, row.no, row.instance, ledger.clock())
    node.redis.rpop(names.queue_key(lab.id))
    checks.check(RESEND_AFTER, node)
    checks.check(RESEND_AFTER - 1, node)
    interruption(checks, lab, node)
    checks.check(0.0, node)
    checks.check(RESEND_AFTER - 0.5, node)
    assert _attempts(ledger, answer) == {1}
    checks.check(1, node)
    assert _attempts(ledger, answer) == {2}


def test_a_loss_of_keys_begins_an_epoch_once(ledger: Ledger, checks: Checks, lab: FakeEndpoint) -> None:
    node = lab.node()
    checks.check()
    ledger.submit(lab, 1)
    first = _epoch(ledger, lab)
    node.redis.delete(names.epoch_key(lab.id))
    checks.check(0.1, node)
    second = _epoch(ledger, lab)
    assert second not in (0, first)
    assert node.redis.get(names.epoch_key(lab.id)) == b"%d" % second
    begin_epoch(ledger.fed, lab.no, lab.id, first)
    assert _epoch(ledger, lab) == second, "another sweeper that has seen the first one"
    checks.check(0.1, node)
    assert _epoch(ledger, lab) == second


def test_an_endpoint_that_never_had_an_epoch_gets_one(
    ledger: Ledger, checks: Checks, lab: FakeEndpoint
) -> None:
    """It was registered before there were epochs: neither the ledger nor the broker has one."""
    node = lab.node()
    checks.check()
    ledger.submit(lab, 1)
    with ledger.fed.database.write() as connection:
        connection.execute(update(endpoints).values(epoch=0))
    node.redis.delete(names.epoch_key(lab.id))
    checks.check(0.1, node)
    assert _epoch(ledger, lab) != 0


def test_bundles_that_have_ended_are_forgotten(ledger: Ledger, checks: Checks, lab: FakeEndpoint) -> None:
    node = lab.node()
    checks.check()
    ledger.submit(lab, 1)
    (done,) = node.take()
    node.finish()
    ledger.collect()
    ledger.submit(lab, 1)
    assert done.id in ledger.broker.holdings.sent(lab.id)
    checks.check(0.1, node)
    (left,) = node.take()
    assert ledger.broker.holdings.sent(lab.id) == {left.id}


def _recorded_later(ledger: Ledger, lab: FakeEndpoint) -> Callable[[str], set[str]]:
    """``Holdings.sent`` with a bundle that is recorded and pushed just after it was read."""
    sent = ledger.broker.holdings.sent

    def answer(endpoint_id: str) -> set[str]:
        found = sent(endpoint_id)
        ledger.submit(lab, 1)
        return found

    return answer


def test_a_bundle_that_was_recorded_during_the_check_is_not_forgotten(
    ledger: Ledger, checks: Checks, lab: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = lab.node()
    checks.check()
    ledger.submit(lab, 1)
    monkeypatch.setattr(ledger.broker.holdings, "sent", _recorded_later(ledger, lab))
    checks.check(0.1, node)
    monkeypatch.undo()
    with ledger.fed.database.read() as connection:
        recorded = set(connection.execute(select(bundles.c.id)).scalars())
    assert len(recorded) == 2 and ledger.broker.holdings.sent(lab.id) == recorded


def test_the_keys_of_an_ended_instance_go_after_its_bundles(
    ledger: Ledger, checks: Checks, lab: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = lab.node()
    checks.check()
    answer = ledger.submit(lab, 1)
    node.take()
    old = node.instance
    node.restart()
    with monkeypatch.context() as patch:
        patch.setattr(checks.lost, "_send_again", lambda *_: (_ for _ in ()).throw(redis.ConnectionError()))
        with pytest.raises(redis.ConnectionError):
            checks.check(1, node)
    assert node.redis.exists(names.held_key(lab.id, old)) and _attempts(ledger, answer) == {1}
    checks.check(1, node)
    assert not node.redis.exists(names.held_key(lab.id, old)) and _attempts(ledger, answer) == {2}
    assert list(ledger.broker.node_states.beats([lab.id])[lab.id].beats) == [node.instance]
