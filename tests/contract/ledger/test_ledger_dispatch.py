"""Dispatch order: the window, bundles, turns, priorities."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from sqlalchemy import Connection

from federation.db import arrivals, shared
from federation.ledger import totals
from federation.registry.users import User
from tests.support.endpoint import FakeEndpoint, FakeNode
from tests.support.ledger import Ledger
from umbel.protocol.errors import Conflict
from umbel.protocol.messages import Bundle


def _calls(bundles: list[Bundle]) -> int:
    return sum(len(bundle.calls) for bundle in bundles)


def _drain(ledger: Ledger, node: FakeNode, wall: float = 0.0001) -> list[Bundle]:
    """Run everything, one bundle at a time; return the bundles in the order in which they ran."""
    done = []
    while bundles := node.take(1):
        node.finish(bundles, wall=wall)
        ledger.collect()
        done += bundles
    return done


@pytest.mark.parametrize("slots", [1, 2, 7])
def test_a_window_of_bundles_goes_out_and_is_kept_full(ledger: Ledger, lab: FakeEndpoint, slots: int) -> None:
    node = lab.node(slots=slots)
    ledger.collect()
    answer = ledger.submit(lab, 2000)
    assert len(ledger.broker.queues[lab.id]) == 3 * slots
    while bundles := node.take(1):
        node.finish(bundles)
        ledger.collect()
        waiting = ledger.states(answer)["queued"]
        assert len(ledger.broker.queues[lab.id]) == 3 * slots or not waiting
    assert ledger.state(answer) == "succeeded"


def test_the_window_follows_the_nodes(ledger: Ledger, lab: FakeEndpoint) -> None:
    ledger.submit(lab, 5000)
    assert len(ledger.broker.queues[lab.id]) == 3, "an endpoint that was never seen counts for one slot"
    lab.node("n1", slots=4)
    ledger.collect()
    assert len(ledger.broker.queues[lab.id]) == 12
    lab.node("n2", slots=2)
    ledger.collect()
    assert len(ledger.broker.queues[lab.id]) == 18


def test_every_call_runs_once_whatever_the_sizes(ledger: Ledger, lab: FakeEndpoint) -> None:
    node = lab.node(slots=3)
    answers = [ledger.submit(lab, count) for count in (1, 10, 2500, 3)]
    run = Counter(call.task_id for bundle in _drain(ledger, node) for call in bundle.calls)
    assert run == Counter(task_id for answer in answers for task_id in answer["task_ids"])


def test_bundles_grow_with_short_calls_and_shrink_with_long_ones(ledger: Ledger, lab: FakeEndpoint) -> None:
    node = lab.node(slots=1)
    ledger.collect()
    ledger.submit(lab, 4000)
    sizes = [len(bundle.calls) for bundle in _drain(ledger, node, wall=1e-5)]
    assert max(sizes) == 1000
    ledger.submit(lab, 200)
    assert [len(bundle.calls) for bundle in _drain(ledger, node, wall=0.06)] == [200]
    ledger.submit(lab, 200)
    assert [len(bundle.calls) for bundle in _drain(ledger, node, wall=0.06)][-20:] == [1] * 20


def test_a_bundle_holds_one_function_with_one_set_of_options(ledger: Ledger, lab: FakeEndpoint) -> None:
    node = lab.node(slots=4)
    ledger.collect()
    other = ledger.function(ledger.me, "other")
    for _ in range(3):
        ledger.submit(lab, 3)
        ledger.submit(lab, 3, function_id=other)
        ledger.submit(lab, 3, timeout=5.0)
    seen = {(bundle.function.name, bundle.options.timeout) for bundle in _drain(ledger, node)}
    assert seen == {("dock", None), ("other", None), ("dock", 5.0)}


def test_higher_priority_goes_first(ledger: Ledger, lab: FakeEndpoint) -> None:
    node = lab.node(slots=1)
    ledger.collect()
    low = ledger.submit(lab, 2000, priority=-5)
    normal = ledger.submit(lab, 200)
    high = ledger.submit(lab, 200, priority=10)
    already = _calls(node.take())  # the window was full of the first ones
    node.finish()
    ledger.collect()
    order = [call.task_id for bundle in _drain(ledger, node) for call in bundle.calls]
    assert set(order[:200]) == set(high["task_ids"])
    assert set(order[200:400]) == set(normal["task_ids"])
    assert set(order[400:]) == set(low["task_ids"][already:])


def share(ledger: Ledger, lab: FakeEndpoint, name: str, calls: int) -> User:
    """Another user's calls on an endpoint: there are no grants yet, so the owner in the rows is changed."""
    user = ledger.user(name)
    answer = ledger.submit(lab, calls)
    with ledger.fed.database.write() as connection:
        for table, column in (("tasks", "submission_no"), ("submissions", "no")):
            connection.exec_driver_sql(
                f"UPDATE {table} SET user_no = {user.no} WHERE {column} IN (SELECT submission_no FROM tasks"
                f" WHERE id = '{answer['task_ids'][0]}')"
            )
        shared.change_loads(connection, totals.differences(connection, lab.no))
    return user


def test_users_take_turns_over_refills(ledger: Ledger, lab: FakeEndpoint) -> None:
    """Every user with calls gets a bundle in every round, regardless of how many others wait."""
    node = lab.node(slots=1)
    ledger.collect()
    for name, calls in (("u1", 1500), ("u2", 300), ("u3", 1500)):
        share(ledger, lab, name, calls)
    ledger.submit(lab, 1500)
    # the last calls of u2 may pass, which is no turn
    names = [bundle.user for bundle in _drain(ledger, node, wall=0.001) if not bundle.passes]
    assert set(names) == {"ada", "u1", "u2", "u3"}
    begin = next(index for index in range(len(names)) if len(set(names[index : index + 4])) == 4)
    assert begin <= 6, f"turns begin late: {names[:20]}"
    last = {name: max(index for index, other in enumerate(names) if other == name) for name in set(names)}
    for index in range(begin, min(last.values()) - 4):
        assert len(set(names[index : index + 4])) == 4, f"somebody was passed over: {names[index:index + 8]}"


def test_two_users_take_turns_over_refills(ledger: Ledger, lab: FakeEndpoint) -> None:
    node = lab.node(slots=1)
    ledger.collect()
    share(ledger, lab, "u1", 60)
    ledger.submit(lab, 60)
    names = [bundle.user for bundle in _drain(ledger, node, wall=1.0)][3:]
    last = min(max(place for place, name in enumerate(names) if name == user) for user in ("ada", "u1"))
    assert last > 8
    assert all(names[place] != names[place + 1] for place in range(last)), names


def _count_only(_fed: Any, connection: Connection, endpoint_no: int, _now: float, *arrival: Any) -> list[Any]:
    arrivals.count(connection, endpoint_no, *arrival)
    return []


def test_a_window_with_room_is_filled_by_the_sweeper(
    ledger: Ledger, lab: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = ledger.endpoint("other")
    with monkeypatch.context() as patch:
        patch.setattr("federation.dispatch.refill", _count_only)
        answers = [ledger.submit(lab, 2), ledger.submit(other, 2)]
    assert [ledger.state(answer) for answer in answers] == ["queued", "queued"]
    ledger.sweep()
    assert [ledger.state(answer) for answer in answers] == ["dispatched", "dispatched"]
    assert lab.queued_calls() == other.queued_calls() == 2


def test_an_endpoint_that_is_away_gets_a_window_and_the_rest_later(ledger: Ledger, lab: FakeEndpoint) -> None:
    answer = ledger.submit(lab, 2000)
    assert 0 < lab.queued_calls() < 2000
    ledger.sweep(after=3600)
    assert 0 < lab.queued_calls() < 2000
    node = lab.node()
    ledger.collect()
    _drain(ledger, node)
    assert ledger.state(answer) == "succeeded"


def test_endpoints_do_not_wait_for_each_other(ledger: Ledger, lab: FakeEndpoint) -> None:
    ledger.submit(lab, 5000)
    other = ledger.endpoint("other")
    node = other.node()
    ledger.collect()
    answer = ledger.submit(other, 5)
    _drain(ledger, node)
    assert ledger.state(answer) == "succeeded"


def test_large_calls_travel_in_bundles_of_bounded_size(ledger: Ledger, lab: FakeEndpoint) -> None:
    node = lab.node(slots=1)
    ledger.collect()
    ledger.submit(lab, [bytes([number]) * 400_000 for number in range(12)])
    bundles = _drain(ledger, node)
    assert max(len(bundle.body) for bundle in bundles) <= 1024 * 1024
    assert _calls(bundles) == 12


def test_a_crash_between_commit_and_sending_is_mended(
    ledger: Ledger, lab: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = lab.node()
    ledger.collect()
    with monkeypatch.context() as patch:
        patch.setattr("federation.dispatch.after_commit", lambda *_: None)
        answer = ledger.submit(lab, 10)
    assert not node.take()
    for _ in range(6):
        ledger.clock.forward(5)
        node.beat()
        ledger.collect()
        ledger.sweep()
    _drain(ledger, node)
    assert ledger.state(answer) == "succeeded"


def _wide(bundles: list[Bundle]) -> list[int | None]:
    return [bundle.options.cores for bundle in bundles]


def test_wide_calls_fill_the_window_by_the_slots_that_they_occupy(ledger: Ledger, lab: FakeEndpoint) -> None:
    node = lab.node(slots=4)
    ledger.collect()
    answer = ledger.submit(lab, 40, cores=4)
    assert _wide(node.take()) == [4] * 3, "three windows of four slots"
    node.finish()
    ledger.collect()
    assert _wide(_drain(ledger, node)) and ledger.state(answer) == "succeeded"


def test_narrow_calls_do_not_overtake_a_wide_one(ledger: Ledger, lab: FakeEndpoint) -> None:
    node = lab.node(slots=4)
    ledger.collect()
    ledger.submit(lab, 1000)
    ledger.submit(lab, 1, cores=3)
    ledger.submit(lab, 1000)
    widths = _wide(_drain(ledger, node))
    assert widths.count(3) == 1
    order = widths.index(3)
    assert 0 < order < len(widths) - 1


def test_a_wide_call_waits_for_a_node_that_has_the_slots_and_is_in_nobodys_way(
    ledger: Ledger, lab: FakeEndpoint
) -> None:
    unseen = ledger.endpoint("unseen")
    ledger.submit(unseen, 1, cores=4)
    assert not ledger.broker.queues[unseen.id], "an endpoint that was never seen counts for one slot"
    large = lab.node("large", slots=4)
    ledger.collect()
    large.goodbye()
    small = lab.node("small", slots=2)
    ledger.collect()
    answer = ledger.submit(lab, 600, cores=3)
    narrow = ledger.submit(lab, 10)
    assert set(_wide(_drain(ledger, small))) == {None}
    assert (ledger.state(answer), ledger.state(narrow)) == ("queued", "succeeded")
    ledger.sweep(60)
    assert ledger.state(answer) == "queued", "the large node may come back"
    large.restart()
    ledger.collect()
    _drain(ledger, large)
    assert ledger.state(answer) == "succeeded"
    ledger.check()


def test_a_call_that_is_too_wide_for_every_node_is_refused_at_once(ledger: Ledger, lab: FakeEndpoint) -> None:
    lab.node("n1", slots=2)
    lab.node("n2", slots=4)
    ledger.collect()
    ledger.submit(lab, 1, cores=4)
    with pytest.raises(Conflict, match="'cores'.*5.*4 slots") as refused:
        ledger.submit(lab, 1, cores=5)
    assert refused.value.details == {"cores": 5, "largest": 4}


def test_a_call_that_turns_out_too_wide_for_every_node_fails(ledger: Ledger, lab: FakeEndpoint) -> None:
    answer = ledger.submit(lab, 3, cores=4)
    fits = ledger.submit(lab, 1, cores=2)
    node = lab.node(slots=2)
    ledger.collect()
    ledger.sweep()
    assert ledger.state(answer) == "queued", "other nodes may be on their way"
    ledger.clock.forward(11)
    node.beat()
    ledger.collect()
    ledger.sweep()
    assert ledger.state(answer) == "failed"
    task = ledger.task(answer["task_ids"][0])
    assert task["code"] == "NOT_ALLOWED" and "'cores'" in task["message"]
    _drain(ledger, node)
    assert ledger.state(fits) == "succeeded"
    ledger.check()
