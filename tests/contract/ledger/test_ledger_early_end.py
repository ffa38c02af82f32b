"""Tasks that end early: cancelled, or expired."""

from __future__ import annotations

import pytest

from federation.ledger import query
from federation.ledger.cancel import cancel_group, cancel_task, cancel_tasks
from tests.support.endpoint import FakeEndpoint, outcome
from tests.support.ledger import Ledger
from umbel.protocol import names
from umbel.protocol.errors import NotFound
from umbel.protocol.messages import Status


def test_a_queued_task_is_cancelled_and_never_sent(ledger: Ledger, lab: FakeEndpoint) -> None:
    node = lab.node(slots=1)
    ledger.collect()
    answer = ledger.submit(lab, 3000)
    waiting = answer["task_ids"][-1]
    shown = cancel_task(ledger.fed, ledger.me, waiting)
    assert (shown["state"], shown["completion"]) == ("cancelled", 1)
    assert ledger.broker.cancelled == {}
    assert ledger.broker.woken == [answer["group_id"]]
    sent = []
    while bundles := node.take():
        sent += [call.task_id for bundle in bundles for call in bundle.calls]
        node.finish()
        ledger.collect()
    assert sorted(sent) == answer["task_ids"][:-1]


@pytest.mark.parametrize("running", [False, True], ids=["dispatched", "running"])
def test_a_task_at_the_endpoint_is_cancelled_at_once_and_the_worker_told(
    ledger: Ledger, lab: FakeEndpoint, running: bool
) -> None:
    node = lab.node()
    answer = ledger.submit(lab, 1)
    (task_id,) = answer["task_ids"]
    (bundle,) = node.take()
    if running:
        node.report({bundle.id: [outcome(bundle, bundle.calls[0], Status.RUNNING)]})
        ledger.collect()
        assert ledger.state(answer) == "running"
    assert cancel_task(ledger.fed, ledger.me, task_id)["state"] == "cancelled"
    assert ledger.broker.cancelled == {lab.id: [task_id]}
    node.finish([bundle])
    assert ledger.collect() == {"ended": 0, "dropped": 1}
    assert ledger.state(answer) == "cancelled"
    assert ledger.results(answer["group_id"])["results"][0]["result"] is None


def test_a_task_that_has_ended_is_not_cancelled(ledger: Ledger, lab: FakeEndpoint) -> None:
    node = lab.node()
    answer = ledger.submit(lab, 1)
    node.take()
    node.finish()
    ledger.collect()
    before = ledger.task(answer["task_ids"][0])
    assert cancel_task(ledger.fed, ledger.me, answer["task_ids"][0]) == before
    assert cancel_group(ledger.fed, ledger.me, answer["group_id"]) == {"cancelled": 0}


def test_cancelling_twice_is_cancelling_once(ledger: Ledger, lab: FakeEndpoint) -> None:
    answer = ledger.submit(lab, 1)
    first = cancel_task(ledger.fed, ledger.me, answer["task_ids"][0])
    assert cancel_task(ledger.fed, ledger.me, answer["task_ids"][0]) == first


def test_a_group_is_cancelled_in_all_its_states(ledger: Ledger, lab: FakeEndpoint) -> None:
    node = lab.node(slots=1)
    ledger.collect()
    answer = ledger.submit(lab, 5000)
    first, second = node.take(2)
    node.finish([first])
    node.report({second.id: [outcome(second, second.calls[0], Status.RUNNING)]})
    ledger.collect()
    done = len(first.calls)
    assert cancel_group(ledger.fed, ledger.me, answer["group_id"]) == {"cancelled": 5000 - done}
    assert ledger.states(answer) == {"succeeded": done, "cancelled": 5000 - done}
    assert lab.queued_calls() > 0, "what is in the broker stays there; its workers skip it"
    told = set(ledger.broker.cancelled[lab.id])
    assert {call.task_id for call in second.calls} <= told
    assert len(told) < 5000, "calls that were never sent are nothing to tell workers of"
    assert query.group(ledger.fed, ledger.me, answer["group_id"])["finished"]
    for bundle in node.take():
        assert {call.task_id for call in bundle.calls} <= told


def test_tasks_are_cancelled_together(ledger: Ledger, lab: FakeEndpoint) -> None:
    lab.node(slots=1)
    ledger.collect()
    answer = ledger.submit(lab, 5000)
    eves = ledger.user("eve")
    assert cancel_tasks(ledger.fed, eves, answer["task_ids"]) == {"cancelled": 0}
    chosen = [*answer["task_ids"][:4500], names.new_id()]
    assert cancel_tasks(ledger.fed, ledger.me, chosen) == {"cancelled": 4500}
    assert cancel_tasks(ledger.fed, ledger.me, chosen) == {"cancelled": 0}
    assert ledger.states(answer)["cancelled"] == 4500


@pytest.mark.parametrize("by", ["group", "ids"])
def test_only_what_has_not_started_is_cancelled(ledger: Ledger, lab: FakeEndpoint, by: str) -> None:
    node = lab.node(slots=3)
    ledger.collect()
    answer = ledger.submit(lab, 5000)
    first, second = node.take(2)
    running = [
        outcome(first, first.calls[0], Status.SUCCEEDED),
        outcome(first, first.calls[1], Status.RUNNING),
    ]
    node.report({first.id: running})
    ledger.collect()
    if by == "group":
        cancel_group(ledger.fed, ledger.me, answer["group_id"], started=False)
    else:
        cancel_tasks(ledger.fed, ledger.me, answer["task_ids"], started=False)
    assert ledger.task(first.calls[0].task_id)["state"] == "succeeded"
    assert ledger.task(first.calls[1].task_id)["state"] == "running"
    assert ledger.task(first.calls[2].task_id)["state"] == "cancelled"
    # the report about its start may be on its way
    assert ledger.task(second.calls[0].task_id)["state"] == "dispatched"
    assert ledger.task(second.calls[1].task_id)["state"] == "cancelled"
    assert ledger.states(answer)["cancelled"] == 5000 - 1 - 3


def test_nothing_has_started_at_an_endpoint_without_nodes(ledger: Ledger, lab: FakeEndpoint) -> None:
    answer = ledger.submit(lab, 10)
    assert cancel_group(ledger.fed, ledger.me, answer["group_id"], started=False) == {"cancelled": 10}


def test_cancelled_calls_make_room_in_the_window(ledger: Ledger, lab: FakeEndpoint) -> None:
    lab.node(slots=1)
    ledger.collect()
    first = ledger.submit(lab, 2000)
    # it does not pass calls of higher priority
    second = ledger.submit(lab, 1, priority=-1)
    assert ledger.state(second) == "queued"
    cancel_group(ledger.fed, ledger.me, first["group_id"])
    assert ledger.state(second) == "dispatched"


def test_a_group_over_several_endpoints_is_cancelled_everywhere(ledger: Ledger, lab: FakeEndpoint) -> None:
    group_id = names.new_id()
    answers = [ledger.submit(place, 5, group_id=group_id) for place in (lab, ledger.endpoint("other"))]
    assert cancel_group(ledger.fed, ledger.me, group_id) == {"cancelled": 10}
    assert {ledger.state(answer) for answer in answers} == {"cancelled"}


def test_nobody_cancels_the_tasks_of_others(ledger: Ledger, lab: FakeEndpoint) -> None:
    answer = ledger.submit(lab, 1)
    eve = ledger.user("eve")
    with pytest.raises(NotFound):
        cancel_task(ledger.fed, eve, answer["task_ids"][0])
    with pytest.raises(NotFound):
        cancel_group(ledger.fed, eve, answer["group_id"])
    assert ledger.state(answer) == "dispatched"


def test_a_broker_that_is_away_does_not_hinder_a_cancel(ledger: Ledger, lab: FakeEndpoint) -> None:
    answer = ledger.submit(lab, 1)
    ledger.broker.down = True
    assert cancel_task(ledger.fed, ledger.me, answer["task_ids"][0])["state"] == "cancelled"


# Expiry


def test_queued_and_dispatched_tasks_expire_and_running_ones_do_not(
    ledger: Ledger, lab: FakeEndpoint
) -> None:
    node = lab.node(slots=1)
    ledger.collect()
    answer = ledger.submit(lab, 3000, expires=30)
    (bundle,) = node.take(1)
    first = bundle.calls[0].task_id
    node.report({bundle.id: [outcome(bundle, bundle.calls[0], Status.RUNNING)]})
    ledger.collect()
    node.beat()
    ledger.collect()
    ledger.sweep()
    assert ledger.states(answer)["expired"] == 0
    ledger.sweep(after=31)
    assert ledger.states(answer) == {"expired": 2999, "running": 1}
    task = ledger.task(answer["task_ids"][-1])
    assert (task["state"], task["code"]) == ("expired", None)
    assert bundle.calls[1].task_id in ledger.broker.cancelled[lab.id]
    assert first not in ledger.broker.cancelled[lab.id]
    node.report({bundle.id: [outcome(bundle, call) for call in bundle.calls]})
    assert ledger.collect() == {"ended": 1, "dropped": len(bundle.calls) - 1}
    assert ledger.states(answer) == {"expired": 2999, "succeeded": 1}


def test_tasks_without_expiry_wait_for_ever(ledger: Ledger, lab: FakeEndpoint) -> None:
    answer = ledger.submit(lab, 1)
    ledger.sweep(after=365 * 86400)
    assert ledger.state(answer) in ("dispatched", "queued")


def test_expired_calls_make_room(ledger: Ledger, lab: FakeEndpoint) -> None:
    ledger.submit(lab, 2000, expires=10)
    patient = ledger.submit(lab, 1, priority=-1)
    assert ledger.state(patient) == "queued"
    ledger.sweep(after=11)
    assert ledger.state(patient) == "dispatched"


def test_a_task_whose_time_is_over_is_not_brought_back_by_a_loss(ledger: Ledger, lab: FakeEndpoint) -> None:
    """It is requeued, and expires in the queue."""
    node = lab.node()
    answer = ledger.submit(lab, 1, expires=30)
    (bundle,) = node.take()
    node.report({bundle.id: [outcome(bundle, bundle.calls[0], Status.RUNNING)]})
    ledger.collect()
    ledger.clock.forward(31)
    node.report({bundle.id: [outcome(bundle, bundle.calls[0], Status.LOST)]})
    ledger.collect()
    ledger.sweep()
    assert ledger.state(answer) == "expired"
