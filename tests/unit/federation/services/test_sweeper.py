"""Which steps a sweep has, and what one does after an error; what they do is in ``contract/ledger``."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import redis
from sqlalchemy import select, update

from federation.db.errors import DatabaseUnavailable
from federation.db.tables import endpoints, nodes
from federation.services import sweeper as module
from federation.services.sweeper import LOOK_INTERVAL, Sweeper
from tests.support.endpoint import FakeEndpoint
from tests.support.ledger import Ledger
from tests.unit.federation.services.conftest import Ticks
from umbel.protocol import names

STEPS = (
    ["check_ledger", "restore_broker", "correct_times", "watch_nodes", "find_lost_bundles", "expire"]
    + ["fail_oversized", "refill", "delete_old", "prune", "check_totals"]
)  # fmt: skip


@pytest.fixture
def sweeper(ledger: Ledger, ticks: Ticks) -> Sweeper:
    return Sweeper(ledger.fed, ticks)


def _live(ledger: Ledger) -> list[str]:
    with ledger.fed.database.read() as connection:
        query = select(nodes.c.name).where(nodes.c.live == 1).order_by(nodes.c.name)
        return list(connection.execute(query).scalars())


@pytest.mark.parametrize(
    "error", [KeyError("a bug"), DatabaseUnavailable("locked"), redis.ConnectionError("refused")]
)
def test_a_step_that_fails_does_not_prevent_the_others(
    sweeper: Sweeper, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    done: list[str] = []

    def note(name: str) -> Any:
        def step() -> None:
            done.append(name)
            raise error

        step.__name__ = name
        return step

    for name in STEPS:
        monkeypatch.setattr(sweeper, name, note(name))
    monkeypatch.setattr(sweeper.quota, "limit_endpoints", note("limit_endpoints"))
    sweeper.sweep()
    assert [name for name in done if name != "limit_endpoints"] == STEPS and len(done) == len(STEPS) + 1
    assert [name for name in done if name not in caplog.text] == []
    assert bool(caplog.records[0].exc_info) == isinstance(error, KeyError)
    sweeper.close()
    assert done[-1] == "check_ledger" and len(done) == len(STEPS) + 2


@pytest.mark.parametrize("rolled_back", [True, False])
def test_after_a_rollback_bundles_are_checked_anew(
    sweeper: Sweeper, monkeypatch: pytest.MonkeyPatch, rolled_back: bool
) -> None:
    monkeypatch.setattr(sweeper._rollback, "check", lambda: rolled_back)
    clear = mock.Mock()
    monkeypatch.setattr(sweeper.lost_bundles, "clear", clear)
    sweeper.check_ledger()
    assert clear.called == rolled_back


def test_a_broker_that_is_there_is_not_restored(ledger: Ledger, sweeper: Sweeper, lab: FakeEndpoint) -> None:
    node = lab.node()
    assert not sweeper.restore_broker() and node.redis.exists(names.beats_key(lab.id))
    before = node.redis.get(names.epoch_key(lab.id))
    node.redis.delete(names.EPOCH_KEY)
    interrupted, cleared = mock.Mock(), mock.Mock()
    with (
        mock.patch.object(sweeper.watch, "interrupted", interrupted),
        mock.patch.object(ledger.fed.broker, "clear_function_cache", cleared),
    ):
        assert sweeper.restore_broker()
    assert interrupted.called and cleared.called and not node.redis.exists(names.beats_key(lab.id))
    assert before != node.redis.get(names.epoch_key(lab.id)) is not None
    assert not sweeper.restore_broker()


def test_endpoints_connect_after_everything_of_before_is_gone(
    ledger: Ledger, sweeper: Sweeper, lab: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their accounts are lost, for example, by a restart of a broker that keeps its data."""
    order: list[str] = []

    def note(owner: Any, name: str) -> None:
        monkeypatch.setattr(owner, name, lambda *_: order.append(name))

    note(ledger.fed.broker, "drop_all_endpoints")
    note(module, "begin_all_epochs")
    note(module.broker_accounts, "ensure_endpoint_users")
    monkeypatch.setattr(module.broker_accounts, "accounts_lost", lambda fed: True)
    assert sweeper.restore_broker()
    assert order == ["drop_all_endpoints", "begin_all_epochs", "ensure_endpoint_users"]


def test_a_broker_whose_restoration_fails_is_restored_again(
    ledger: Ledger, sweeper: Sweeper, lab: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.broker.redis.delete(names.EPOCH_KEY)
    with monkeypatch.context() as patch:
        patch.setattr(sweeper.watch, "interrupted", mock.Mock(side_effect=redis.ConnectionError("refused")))
        with pytest.raises(redis.ConnectionError):
            sweeper.restore_broker()
    assert sweeper.restore_broker() and not sweeper.restore_broker()


def test_all_endpoints_are_looked_at_once_in_a_while(
    ledger: Ledger, sweeper: Sweeper, ticks: Ticks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those with live nodes each time."""
    first, second = ledger.endpoint("first"), ledger.endpoint("second")
    first.node("n1")
    looked: list[list[str]] = []
    look = sweeper.watch.look
    monkeypatch.setattr(sweeper.watch, "look", lambda ids: (looked.append(list(ids)), look(ids))[1])
    sweeper.watch_nodes()
    second.node("n2")
    for seconds in (LOOK_INTERVAL - 1, 0.5, 0.5, 1):
        ticks.now += seconds
        sweeper.watch_nodes()
    both = sorted([first.id, second.id])
    assert looked == [[first.id], [first.id], [first.id], both, both]
    assert _live(ledger) == ["n1", "n2"]


def test_an_error_interrupts_the_silence(
    ledger: Ledger, sweeper: Sweeper, ticks: Ticks, lab: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.node()
    for number in range(8):
        if number == 4:
            flawed = mock.Mock(side_effect=redis.ConnectionError("refused"))
            with monkeypatch.context() as patch:
                patch.setattr(sweeper.watch, "look", flawed)
                with pytest.raises(redis.ConnectionError):
                    sweeper.watch_nodes()
        sweeper.watch_nodes()
        ticks.now += 10.0
    sweeper.watch_nodes()
    assert _live(ledger) == ["n1"]
    for _ in range(3):
        ticks.now += 10.0
        sweeper.watch_nodes()
    assert _live(ledger) == []


def test_nodes_are_marked_as_lost_in_batches(
    ledger: Ledger,
    sweeper: Sweeper,
    ticks: Ticks,
    lab: FakeEndpoint,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(module, "BATCH", 2)
    for number in range(5):
        lab.node(f"n{number}")
    for _ in range(7):
        sweeper.watch_nodes()
        ticks.now += 10.0
    assert len(_live(ledger)) == 5
    marked = mock.Mock(wraps=sweeper._mark_lost)
    monkeypatch.setattr(sweeper, "_mark_lost", marked)
    sweeper.watch_nodes()
    assert [len(call.args[0]) for call in marked.call_args_list] == [2, 2, 1]
    assert _live(ledger) == [] and sum("is considered lost" in line for line in caplog.messages) == 5


def test_calls_are_expired_and_old_tasks_deleted_until_none_is_left(
    sweeper: Sweeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of old tasks only some batches per sweep."""
    calls: list[str] = []

    def batches(name: str, counts: list[int]) -> None:
        left = iter(counts)
        monkeypatch.setattr(module, name, lambda *_: (calls.append(name), next(left))[1])

    for name in ("expire", "fail_oversized"):
        batches(name, [3, 1, 0])
    sweeper.expire()
    sweeper.fail_oversized()
    assert calls == ["expire"] * 3 + ["fail_oversized"] * 3
    others = ["expire_idempotency_keys", "delete_old_blocks", "delete_old_nodes", "delete_idle"]
    for name in others:
        batches(name, [0, 0])
    expired = mock.Mock()
    monkeypatch.setattr(module.call_tokens, "delete_expired", expired)
    for counts in ([500, 0], [500] * (module.DELETE_BATCHES + 1)):
        calls.clear()
        batches("delete_old_tasks", counts)
        sweeper.delete_old()
        found = calls.count("delete_old_tasks")
        assert found == min(len(counts), module.DELETE_BATCHES)
        assert sorted(set(calls)) == sorted(["delete_old_tasks", *others])
    assert expired.call_count == 2


def test_lost_bundles_are_looked_for(sweeper: Sweeper, monkeypatch: pytest.MonkeyPatch) -> None:
    check = mock.Mock()
    monkeypatch.setattr(sweeper.lost_bundles, "check", check)
    sweeper.find_lost_bundles()
    assert check.called


def test_nodes_that_have_ended_or_belong_to_a_deleted_endpoint_are_not_watched(
    ledger: Ledger, sweeper: Sweeper, lab: FakeEndpoint
) -> None:
    other, gone = ledger.endpoint("other"), ledger.endpoint("gone")
    for endpoint in (lab, other, gone):
        endpoint.node("n1")
    sweeper.watch_nodes()
    with ledger.fed.database.write() as connection:
        connection.execute(update(nodes).where(nodes.c.endpoint_no == other.no).values(live=0))
        connection.execute(update(endpoints).where(endpoints.c.no == gone.no).values(deleted=1.0))
    assert {id: [row.name for row in rows] for id, rows in sweeper._live_nodes().items()} == {lab.id: ["n1"]}


def test_windows_are_refilled_some_at_a_time(
    ledger: Ledger, sweeper: Sweeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH", 2)
    monkeypatch.setattr(module.dispatch, "endpoints_to_refill", lambda *_: [1, 2, 3])
    monkeypatch.setattr(module.dispatch, "refill_if_free", lambda fed, number: number == 2)
    caught_up: list[list[int]] = []
    monkeypatch.setattr(module.dispatch, "catch_up", lambda fed, numbers: caught_up.append(numbers))
    sweeper.refill()
    assert caught_up == [[2]]


def test_the_ledger_is_corrected_checked_and_pruned(
    ledger: Ledger, ticks: Ticks, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def note(owner: Any, name: str) -> None:
        monkeypatch.setattr(owner, name, lambda *_: done.append(name))

    note(module, "correct_future_times")
    note(module.TotalsCheck, "check_next")
    note(module.Pruner, "prune")
    note(module.free_pages, "release")
    sweeper = Sweeper(ledger.fed, ticks)
    sweeper.correct_times()
    sweeper.check_totals()
    sweeper.prune()
    assert done == ["correct_future_times", "check_next", "prune", "release"]
