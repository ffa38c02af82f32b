"""Retention: finished tasks, results, groups and responses are deleted in time, and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from sqlalchemy import func, select, update

from federation.db.tables import blobs, groups, idempotency, nodes, submissions, tasks
from federation.ledger import query, retention
from federation.provision.cleanup import delete_old_blocks
from federation.provision.planning import failures
from federation.provision.planning.policy import Policy
from federation.provision.records import blocks, sites
from tests.support.endpoint import FakeEndpoint
from tests.support.ledger import Ledger
from umbel.protocol.errors import NotFound

DAY = 86400.0


@pytest.fixture
def server_settings() -> dict[str, Any]:
    return {"retention": 2 * DAY}


def _counts(ledger: Ledger) -> dict[str, int]:
    with ledger.fed.database.read() as connection:
        return {
            str(table.name): connection.execute(select(func.count()).select_from(table)).scalar_one()
            for table in (tasks, blobs, groups, submissions)
        }


def _finish(ledger: Ledger, lab: FakeEndpoint) -> None:
    node = lab.node()
    ledger.collect()
    while node.take():
        node.finish()
        ledger.collect()


def test_nothing_goes_before_its_time(ledger: Ledger, lab: FakeEndpoint) -> None:
    answer = ledger.submit(lab, 100)
    _finish(ledger, lab)
    before = _counts(ledger)
    ledger.sweep(after=1.9 * DAY)
    assert _counts(ledger) == before
    assert len(ledger.results(answer["group_id"])["results"]) == 100


def test_finished_tasks_go_with_all_that_belongs_to_them(ledger: Ledger, lab: FakeEndpoint) -> None:
    answer = ledger.submit(lab, 100)
    _finish(ledger, lab)
    ledger.sweep(after=3 * DAY)
    assert _counts(ledger) == {"tasks": 0, "blobs": 0, "groups": 0, "submissions": 0}
    with pytest.raises(NotFound):
        ledger.results(answer["group_id"])
    with pytest.raises(NotFound):
        query.task(ledger.fed, ledger.me, answer["task_ids"][0])


def test_live_tasks_never_go(ledger: Ledger, lab: FakeEndpoint) -> None:
    answer = ledger.submit(lab, 5)
    ledger.sweep(after=6 * DAY)
    assert _counts(ledger)["tasks"] == 5
    _finish(ledger, lab)
    assert ledger.state(answer) == "succeeded"


def test_a_group_with_live_tasks_stays_and_goes_on_counting(ledger: Ledger, lab: FakeEndpoint) -> None:
    old = ledger.submit(lab, 5)
    _finish(ledger, lab)
    new = ledger.submit(lab, 3, group_id=old["group_id"])
    ledger.sweep(after=3 * DAY)
    assert _counts(ledger)["tasks"] == 3
    _finish(ledger, lab)
    found = ledger.results(old["group_id"], after=5)
    assert [r["completion"] for r in found["results"]] == [6, 7, 8]
    assert {r["task_id"] for r in found["results"]} == set(new["task_ids"])


def test_arguments_that_tasks_share_go_with_the_last_of_them(ledger: Ledger, lab: FakeEndpoint) -> None:
    answer = ledger.submit(lab, [b"the same"] * 4)
    node = lab.node(slots=1)
    first, *_ = node.take(1)
    node.finish([first])
    ledger.collect()
    assert 0 < ledger.states(answer)["succeeded"] < 4
    ledger.sweep(after=3 * DAY)
    left = _counts(ledger)
    assert (left["tasks"], left["blobs"]) == (4 - len(first.calls), 1)
    ledger.check()
    _finish(ledger, lab)
    assert ledger.states(answer) == {"succeeded": 4 - len(first.calls)}


def test_forgetting_goes_in_small_batches(
    ledger: Ledger, lab: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "BATCH", 7)
    ledger.submit(lab, 100)
    _finish(ledger, lab)
    ledger.clock.forward(3 * DAY)
    sizes = []
    while count := retention.delete_old_tasks(ledger.fed, ledger.clock()):
        sizes.append(count)
    assert sizes == [7] * 14 + [2]
    assert _counts(ledger) == {"tasks": 0, "blobs": 0, "groups": 0, "submissions": 0}


@pytest.mark.parametrize("server_settings", [{"retention": 60.0}])
def test_the_time_is_a_setting(ledger: Ledger, lab: FakeEndpoint) -> None:
    ledger.submit(lab, 3)
    _finish(ledger, lab)
    ledger.sweep(after=61)
    assert _counts(ledger)["tasks"] == 0


def test_answers_for_repeated_requests_are_kept_a_day(ledger: Ledger, lab: FakeEndpoint) -> None:
    first = ledger.submit(lab, 1, key="k")
    ledger.sweep(after=0.9 * DAY)
    assert ledger.submit(lab, 1, key="k") == first
    ledger.sweep(after=0.2 * DAY)
    with ledger.fed.database.read() as connection:
        assert connection.execute(select(func.count()).select_from(idempotency)).scalar_one() == 0


def test_two_sweepers_forget_a_task_once(
    ledger: Ledger, lab: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one finds the rows that the first is about to delete; the references are released once."""
    kept = ledger.submit(lab, [b"the same"] * 4)
    node = lab.node(slots=1)
    first, *_ = node.take(1)
    node.finish([first])
    ledger.collect()
    ledger.clock.forward(3 * DAY)
    counts: list[Any] = []
    threads = [
        threading.Thread(target=lambda: counts.append(retention.delete_old_tasks(ledger.fed, ledger.clock())))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sum(counts) == len(first.calls)
    assert ledger.states(kept)["succeeded"] == 0


def test_blocks_are_forgotten_once_by_however_many(ledger: Ledger, lab: FakeEndpoint) -> None:
    """Their node-hours are kept, neither lost nor doubled when the endpoint's memory changes."""
    fed, now = ledger.fed, ledger.clock()
    sites.add(fed, lab.no, sites.SiteSettings("local", "processes"), Policy())
    for number in range(20):
        blocks.add(fed, lab.no, f"umbel-0123abcd-{number:08x}", Policy(), now)
        blocks.change(fed, f"umbel-0123abcd-{number:08x}", started=now - 3600.0, ended=now)
    ledger.clock.forward(3 * DAY)
    counts: list[int] = []

    def act(step: Callable[[], Any]) -> threading.Thread:
        thread = threading.Thread(target=lambda: counts.append(step() or 0))
        thread.start()
        return thread

    def strike(number: int) -> None:
        sites.update_planner_state(
            fed, lab.no, lambda m: failures.strike_nodes(m, Policy(), 0.0, f"b{number}", ["cn1"])
        )

    threads = [act(lambda: delete_old_blocks(fed, ledger.clock())) for _ in range(4)]
    threads += [act(partial(strike, number)) for number in range(8)]
    for thread in threads:
        thread.join(60)
    assert sum(counts) + delete_old_blocks(fed, ledger.clock()) == 20
    assert sites.find(fed, lab.no).planner_state.strikes == {"cn1": 8}
    with fed.database.read() as connection:
        assert blocks.used_hours_total(connection, lab.no) == pytest.approx(20.0)
        assert blocks.used_hours(connection, lab.no, 0.0) == 0.0


def _node_names(ledger: Ledger) -> set[str]:
    with ledger.fed.database.read() as connection:
        return set(connection.execute(select(nodes.c.name)).scalars())


def test_nodes_that_are_gone_are_deleted_in_time(ledger: Ledger, lab: FakeEndpoint) -> None:
    for name in ("a-1", "b-1", "umbel-job.c"):
        node = lab.node(name)
        ledger.collect()
        node.goodbye()
    live = lab.node("d-1")
    ledger.collect()
    ledger.sweep(after=1.9 * DAY)
    assert _node_names(ledger) == {"a-1", "b-1", "umbel-job.c", "d-1"}
    live.beat()
    ledger.collect()
    ledger.sweep(after=0.2 * DAY)
    assert _node_names(ledger) == {"d-1"}


def test_a_bundle_on_a_node_whose_row_is_deleted_is_not_stuck(ledger: Ledger, lab: FakeEndpoint) -> None:
    node = lab.node("a-1")
    ledger.collect()
    answer = ledger.submit(lab, 1)
    node.take()
    with ledger.fed.database.write() as connection:
        connection.execute(update(nodes).values(live=0, seen=0.0, lost=ledger.clock()))
    retention.delete_old_nodes(ledger.fed, ledger.clock())
    assert _node_names(ledger) == set()
    other = lab.node("b-1")
    for _ in range(15):
        ledger.sweep(after=5)
        other.beat()
    other.take()
    other.finish()
    ledger.collect()
    assert ledger.state(answer) == "succeeded"
