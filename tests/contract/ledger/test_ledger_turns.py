"""Turns of groups, and short calls that pass a window of other work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from federation.db.statements import observed
from federation.dispatch import heads
from tests.contract.ledger.test_ledger_dispatch import share
from tests.support.endpoint import FakeEndpoint, FakeNode
from tests.support.ledger import Ledger
from umbel.protocol.messages import Bundle


def _run(ledger: Ledger, node: FakeNode, bundles: int, wall: float = 0.001) -> list[Bundle]:
    """Run up to so many bundles, one at a time; return them in the order in which they ran."""
    done: list[Bundle] = []
    while len(done) < bundles and (taken := node.take(1)):
        node.finish(taken, wall=wall)
        ledger.collect()
        done += taken
    return done


def _groups(bundles: list[Bundle], answers: list[dict[str, Any]]) -> list[int]:
    """The number of the submission that the first call of each bundle belongs to."""
    of = {task_id: number for number, answer in enumerate(answers) for task_id in answer["task_ids"]}
    return [of[bundle.calls[0].task_id] for bundle in bundles]


@pytest.fixture
def node(ledger: Ledger, lab: FakeEndpoint) -> FakeNode:
    """A node of one slot; a call of its function takes a millisecond."""
    node = lab.node(slots=1)
    ledger.collect()
    ledger.submit(lab, 1)
    _run(ledger, node, 1)
    return node


def test_groups_of_a_user_take_turns_over_refills(ledger: Ledger, lab: FakeEndpoint, node: FakeNode) -> None:
    answers = [ledger.submit(lab, 1500) for _ in range(3)]
    order = _groups([each for each in _run(ledger, node, 20)], answers)[3:]
    assert all(len(set(order[place : place + 3])) == 3 for place in range(len(order) - 3)), order
    ledger.check()


def test_many_groups_all_get_their_turns(ledger: Ledger, lab: FakeEndpoint, node: FakeNode) -> None:
    """More groups than are read at once, each larger than a page."""
    count = heads.MAX_PAGES + 6
    answers = [ledger.submit(lab, 300) for _ in range(count)]
    order = _groups(_run(ledger, node, 2 * count), answers)
    assert set(order) == set(range(count))
    assert max(Counter(order).values()) <= 5


def test_a_lone_call_overtakes_its_owners_bag(ledger: Ledger, lab: FakeEndpoint, node: FakeNode) -> None:
    ledger.submit(lab, 10_000)
    _run(ledger, node, 2)
    lone = ledger.submit(lab, 1)
    (bundle,) = _run(ledger, node, 1)
    assert ([call.task_id for call in bundle.calls], bundle.passes) == (lone["task_ids"], True)
    ledger.check()


def test_little_passes_at_once(ledger: Ledger, lab: FakeEndpoint, node: FakeNode) -> None:
    """Each bundle of the bag lets one pass; calls beyond that wait for their turn."""
    ledger.submit(lab, 10_000)
    first, second = ledger.submit(lab, 1), ledger.submit(lab, 1)
    assert (ledger.state(first), ledger.state(second)) == ("dispatched", "queued")
    _run(ledger, node, 5)
    assert (ledger.state(first), ledger.state(second)) == ("succeeded", "succeeded")
    for _ in range(10):
        third = ledger.submit(lab, 1)
        assert ledger.state(third) == "dispatched"
        _run(ledger, node, 1)
        assert ledger.state(third) == "succeeded"
        _run(ledger, node, 1)


def test_a_stream_of_lone_calls_does_not_starve_a_bag(
    ledger: Ledger, lab: FakeEndpoint, node: FakeNode
) -> None:
    bag = ledger.submit(lab, 3000)
    for _ in range(100):
        if ledger.state(bag) == "succeeded":
            break
        for _ in range(3):
            ledger.submit(lab, 1)
        _run(ledger, node, 2)
    assert ledger.state(bag) == "succeeded"


def test_lone_calls_do_not_pass_calls_of_higher_priority(
    ledger: Ledger, lab: FakeEndpoint, node: FakeNode
) -> None:
    ledger.submit(lab, 10_000, priority=5)
    lone = ledger.submit(lab, 1)
    assert ledger.state(lone) == "queued"
    urgent = ledger.submit(lab, 1, priority=6)
    _run(ledger, node, 1)
    assert (ledger.state(urgent), ledger.state(lone)) == ("succeeded", "queued")


def test_long_calls_do_not_pass(ledger: Ledger, lab: FakeEndpoint, node: FakeNode) -> None:
    slow = ledger.function(ledger.me, "slow")
    ledger.submit(lab, 1, function_id=slow)
    _run(ledger, node, 1, wall=30.0)
    ledger.submit(lab, 10_000)
    assert ledger.state(ledger.submit(lab, 1, function_id=slow)) == "queued"


def test_calls_that_are_submitted_in_their_own_groups_share_bundles(
    ledger: Ledger, lab: FakeEndpoint, node: FakeNode
) -> None:
    answers = [ledger.submit(lab, 1) for _ in range(60)]
    ran = _run(ledger, node, 60)
    assert sum(len(bundle.calls) for bundle in ran) == 60
    assert len(ran) < 15
    assert {ledger.state(answer) for answer in answers} == {"succeeded"}
    ledger.check()


@pytest.mark.parametrize("groups", [1, 4000])
def test_the_cost_of_a_refill_does_not_depend_on_the_number_of_groups(
    ledger: Ledger, lab: FakeEndpoint, node: FakeNode, groups: int
) -> None:
    answer = ledger.submit(lab, 8000)
    with ledger.fed.database.write() as connection:
        # the later calls belong to as many groups; no group is numbered so high
        connection.exec_driver_sql(
            f"UPDATE tasks SET group_no = group_no + no - no / {groups} * {groups} WHERE state = 'queued'"
        )
    _run(ledger, node, 1)
    statements: list[str] = []
    with observed(lambda sql, rows: statements.append(sql)):
        ledger.submit(lab, 1, group_id=answer["group_id"])
    reads = [sql for sql in statements if "tasks.blob_offset" in sql and "LIMIT" in sql]
    assert 0 < len(reads) <= 4, len(reads)
    with ledger.fed.database.write() as connection:
        group = f"(SELECT no FROM groups WHERE id = '{answer['group_id']}')"
        connection.exec_driver_sql(f"UPDATE tasks SET group_no = {group} WHERE group_no > {group}")


def _page_reads(ledger: Ledger, step: Callable[[], Any]) -> int:
    """Return how many pages of queues a step reads."""
    statements: list[str] = []
    with observed(lambda sql, rows: statements.append(sql)):
        step()
    return sum(1 for sql in statements if "tasks.blob_offset" in sql and "LIMIT" in sql)


def test_the_cost_of_a_refill_does_not_depend_on_the_number_of_users(
    ledger: Ledger, lab: FakeEndpoint
) -> None:
    node = lab.node(slots=64)
    ledger.collect()
    ledger.submit(lab, 1)
    _run(ledger, node, 1)
    ledger.submit(lab, 10_000)
    for number in range(20):
        share(ledger, lab, f"u{number}", 400)
    # every bundle that ends lets another one pass
    _run(ledger, node, 30)
    assert _page_reads(ledger, lambda: _run(ledger, node, 1)) <= 3
    assert _page_reads(ledger, lambda: ledger.submit(lab, 1000)) == 0
    assert 0 < _page_reads(ledger, lambda: ledger.submit(lab, 1)) <= 2


def test_an_urgent_stream_does_not_take_the_turns_of_other_groups(
    ledger: Ledger, lab: FakeEndpoint, node: FakeNode
) -> None:
    answers = [ledger.submit(lab, 1500) for _ in range(2)]
    order = []
    for _ in range(12):
        ledger.submit(lab, 1, priority=9)
        ran = [each for each in _run(ledger, node, 2) if len(each.calls) > 1]
        order += _groups(ran, answers)
    assert 4 <= Counter(order)[1] <= len(order) - 4, order
