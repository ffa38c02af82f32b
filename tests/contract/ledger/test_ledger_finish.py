"""Applying reports: which report wins, what is dropped, what is retried."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest

from federation import dispatch
from federation.ledger import query, results
from federation.ledger.requeue import MAX_INTERRUPTIONS, MAX_WALLTIMES
from federation.registry import endpoints
from tests.support.endpoint import FakeEndpoint, FakeNode, outcome
from tests.support.ledger import Ledger
from umbel.protocol import names
from umbel.protocol.errors import Conflict, NotFound
from umbel.protocol.messages import Bundle, Interruption, Outcome, Status
from umbel.serialization.exceptions import dump_exception


@pytest.fixture
def node(lab: FakeEndpoint) -> FakeNode:
    return lab.node(slots=1)


def _one(ledger: Ledger, node: FakeNode, **options: Any) -> tuple[str, Bundle]:
    """Submit one call and let the node receive it."""
    ledger.collect()
    answer = ledger.submit(node.endpoint, [b"x"], **options)
    (bundle,) = node.take()
    return answer["task_ids"][0], bundle


def _report(node: FakeNode, bundle: Bundle, status: str, **how: Any) -> None:
    node.finish([bundle], status=status, **how)


def test_the_first_terminal_report_wins(ledger: Ledger, node: FakeNode) -> None:
    task_id, bundle = _one(ledger, node)
    _report(node, bundle, Status.SUCCEEDED, payload=b"first")
    _report(node, bundle, Status.SUCCEEDED, payload=b"second")
    _report(node, bundle, Status.FAILED)
    assert ledger.collect() == {"ended": 1, "dropped": 2}
    _report(node, bundle, Status.FAILED)
    assert ledger.collect() == {"ended": 0, "dropped": 1}
    result = results.result(ledger.fed, ledger.me, task_id)
    assert (result["state"], result["result"]) == ("succeeded", b"first")
    assert ledger.collector.dropped == 3


def test_the_polls_of_all_groups_that_have_results_are_woken(ledger: Ledger, lab: FakeEndpoint) -> None:
    node = lab.node(slots=8)
    ledger.collect()
    answers = [ledger.submit(lab, 2) for _ in range(3)]
    bundles = node.take()
    ledger.broker.woken.clear()
    node.finish([bundle for bundle in bundles if bundle.calls[0].task_id not in answers[0]["task_ids"]])
    ledger.collect()
    assert [ledger.state(answer) for answer in answers] == ["dispatched", "succeeded", "succeeded"]
    assert sorted(ledger.broker.woken) == sorted(answer["group_id"] for answer in answers[1:])


def test_of_two_outcomes_in_one_report_the_first_counts(ledger: Ledger, node: FakeNode) -> None:
    task_id, bundle = _one(ledger, node)
    (call,) = bundle.calls
    node.report({bundle.id: [outcome(bundle, call, payload=b"1"), outcome(bundle, call, payload=b"2")]})
    ledger.collect()
    assert results.result(ledger.fed, ledger.me, task_id)["result"] == b"1"
    assert ledger.task(task_id)["completion"] == 1


@pytest.mark.parametrize("second", [Status.RETURNED, Status.LOST, Status.FAILED, Status.SKIPPED])
def test_contradictions_in_one_report_end_a_call_once(ledger: Ledger, node: FakeNode, second: str) -> None:
    task_id, bundle = _one(ledger, node)
    (call,) = bundle.calls
    node.report({bundle.id: [outcome(bundle, call), outcome(bundle, call, second)]})
    node.report({bundle.id: [outcome(bundle, call, second), outcome(bundle, call)]})
    ledger.collect()
    assert ledger.task(task_id)["state"] == "succeeded"


def test_a_late_result_of_an_earlier_attempt_wins(ledger: Ledger, node: FakeNode) -> None:
    task_id, first = _one(ledger, node)
    _report(node, first, Status.LOST)
    ledger.collect()
    (second,) = node.take()
    assert second.calls[0].attempt == 2
    _report(node, first, Status.SUCCEEDED, payload=b"early bird")
    _report(node, second, Status.SUCCEEDED, payload=b"too late")
    assert ledger.collect() == {"ended": 1, "dropped": 1}
    assert results.result(ledger.fed, ledger.me, task_id)["result"] == b"early bird"


def test_a_result_that_comes_while_the_call_waits_again_ends_it(ledger: Ledger, node: FakeNode) -> None:
    filler = ledger.submit(node.endpoint, 3000)
    node.take()
    _, bundle = list(node.held.items())[0]
    call = bundle.calls[0]
    node.report({bundle.id: [outcome(bundle, call, Status.RETURNED)]})
    ledger.collect()
    node.report({bundle.id: [outcome(bundle, call)]})
    ledger.collect()
    assert ledger.task(call.task_id)["state"] == "succeeded"
    assert ledger.states(filler)["succeeded"] == 1


def test_reports_of_attempts_that_never_were_are_dropped(ledger: Ledger, node: FakeNode) -> None:
    task_id, bundle = _one(ledger, node)
    call = bundle.calls[0]._replace(attempt=2)
    node.report({bundle.id: [outcome(bundle, call)]})
    assert ledger.collect()["dropped"] == 1
    assert ledger.task(task_id)["state"] == "dispatched"


def test_unknown_tasks_are_dropped(ledger: Ledger, node: FakeNode) -> None:
    task_id, bundle = _one(ledger, node)
    stranger = Outcome("no-such-task", 1, Status.SUCCEEDED, time.time(), 0.1, payload=b"?")
    node.report({bundle.id: [stranger, outcome(bundle, bundle.calls[0], payload=b"right")]})
    assert ledger.collect() == {"ended": 1, "dropped": 1}
    assert results.result(ledger.fed, ledger.me, task_id)["result"] == b"right"


@pytest.mark.parametrize("status", [Status.SUCCEEDED, Status.LOST, Status.RETURNED, Status.RUNNING])
def test_an_endpoint_speaks_only_of_its_own_tasks(ledger: Ledger, node: FakeNode, status: str) -> None:
    task_id, bundle = _one(ledger, node)
    eve = ledger.endpoint("evil", ledger.user("eve")).node()
    eve.report({bundle.id: [outcome(bundle, bundle.calls[0], status)]})
    ledger.collect()
    assert ledger.task(task_id)["state"] == "dispatched"


def test_an_endpoint_cannot_hold_the_bundles_of_another(ledger: Ledger, node: FakeNode) -> None:
    task_id, bundle = _one(ledger, node)
    eve = ledger.endpoint("evil", ledger.user("eve")).node()
    eve.beat(held=[bundle.id])
    eve.goodbye()
    ledger.collect()
    assert ledger.task(task_id)["state"] == "dispatched"


def test_forged_reports_are_dropped(ledger: Ledger, node: FakeNode) -> None:
    task_id, bundle = _one(ledger, node)
    evil = ledger.endpoint("evil", ledger.user("eve"))
    node.endpoint.signer, own = evil.signer, node.endpoint.signer
    _report(node, bundle, Status.SUCCEEDED)
    ledger.broker.redis.lpush("umbel:reports", b"not an envelope")
    ledger.broker.redis.lpush("umbel:reports", b"UMB1\x00\x00\x00\x02{}")
    ledger.collect()
    assert ledger.task(task_id)["state"] == "dispatched"
    node.endpoint.signer = own
    _report(node, bundle, Status.SUCCEEDED)
    ledger.collect()
    assert ledger.task(task_id)["state"] == "succeeded"


def test_a_report_concerns_its_endpoint_only(
    ledger: Ledger, node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Endpoints without reports are neither locked nor refilled."""
    _one(ledger, node)
    ledger.submit(ledger.endpoint("other"), 1)
    refilled: list[int] = []
    monkeypatch.setattr(
        dispatch, "refill", lambda fed, connection, endpoint_no, now: refilled.append(endpoint_no) or []
    )
    node.finish()
    assert ledger.collect()["ended"] == 1
    assert refilled == [node.endpoint.no]


def test_a_report_that_was_read_before_its_endpoint_was_deleted(ledger: Ledger, node: FakeNode) -> None:
    """The collector knows the key of the endpoint for a while; its reports and nodes change nothing."""
    _, bundle = _one(ledger, node)
    node.finish()
    ledger.collect()
    endpoints.delete(ledger.fed, ledger.me, node.endpoint.name)
    late = node.endpoint.node("late")
    late.report({bundle.id: [outcome(bundle, bundle.calls[0])]})
    assert ledger.broker.reports() == 1
    ledger.collector._turns[node.endpoint.id] = None
    ledger.collector.watch.look([node.endpoint.id])
    assert not node.redis.exists(names.known_key(node.endpoint.id)), "nor may they fetch"
    ledger.collect()
    assert ledger.broker.reports() == 0
    with ledger.fed.database.read() as connection:
        assert connection.exec_driver_sql("SELECT name FROM nodes").scalars().all() == ["n1"]


def test_completion_numbers_follow_the_order_of_ends_without_gaps(
    ledger: Ledger, lab: FakeEndpoint, node: FakeNode
) -> None:
    answer = ledger.submit(lab, 900)
    seen: list[int] = []
    cursor = 0
    while len(seen) < 900:
        for bundle in node.take(1):
            node.finish([bundle])
        ledger.collect()
        found = ledger.results(answer["group_id"], cursor, limit=200)
        cursor = found["cursor"]
        seen += [r["completion"] for r in found["results"]]
        assert 0 <= found["live"] <= 900 - len(seen)
    assert seen == list(range(1, 901))
    assert ledger.results(answer["group_id"], cursor)["live"] == 0


def test_results_may_be_read_again_from_any_cursor(ledger: Ledger, lab: FakeEndpoint, node: FakeNode) -> None:
    answer = ledger.submit(lab, 20)
    node.take()
    node.finish()
    ledger.collect()
    everything = ledger.results(answer["group_id"])["results"]
    assert ledger.results(answer["group_id"])["results"] == everything
    assert ledger.results(answer["group_id"], 15)["results"] == everything[15:]
    assert ledger.results(answer["group_id"], 3, limit=2)["results"] == everything[3:5]


def test_an_answer_is_bounded_in_bytes(ledger: Ledger, lab: FakeEndpoint, node: FakeNode) -> None:
    answer = ledger.submit(lab, 3)
    for bundle in node.take():
        node.finish([bundle], payload=bytes(results.MAX_RESPONSE_BYTES - 10))
    for bundle in node.take():
        node.finish([bundle], payload=bytes(results.MAX_RESPONSE_BYTES - 10))
    ledger.collect()
    assert ledger.state(answer) == "succeeded"
    sizes, cursor = [], 0
    while found := ledger.results(answer["group_id"], cursor)["results"]:
        cursor = found[-1]["completion"]
        sizes.append(len(found))
    assert sizes == [1, 1, 1]


def test_a_task_tells_how_it_ran(ledger: Ledger, node: FakeNode) -> None:
    task_id, bundle = _one(ledger, node)
    before = time.time()
    with pytest.raises(Conflict) as caught:
        results.result(ledger.fed, ledger.me, task_id)
    assert caught.value.code == "RESULT_NOT_READY"
    _report(node, bundle, Status.SUCCEEDED, started=before, wall=0.25, usage={"cpu": 0.2}, payload=b"abc")
    ledger.collect()
    task = ledger.task(task_id)
    expected = {"node": "n1", "started": before, "wall": 0.25, "usage": {"cpu": 0.2}, "result_size": 3}
    assert {name: task[name] for name in expected} == expected
    assert task["finished"] >= before and task["dispatched"] >= task["created"]
    eve = ledger.user("eve")
    for read in (query.task, results.result):
        with pytest.raises(NotFound):
            read(ledger.fed, eve, task_id)


def test_a_failure_carries_code_message_and_exception(ledger: Ledger, node: FakeNode) -> None:
    task_id, bundle = _one(ledger, node)
    _report(node, bundle, Status.FAILED, code="TIMEOUT", message="ran longer than 3 s")
    ledger.collect()
    task = ledger.task(task_id)
    assert (task["state"], task["code"], task["message"]) == ("failed", "TIMEOUT", "ran longer than 3 s")
    task_id, bundle = _one(ledger, node)
    _report(node, bundle, Status.FAILED, payload=dump_exception(KeyError("k")))
    ledger.collect()
    result = results.result(ledger.fed, ledger.me, task_id)
    assert result["result"] is None and b"KeyError" in result["exception"]


def test_codes_and_messages_are_what_the_contract_allows(ledger: Ledger, node: FakeNode) -> None:
    task_id, bundle = _one(ledger, node)
    _report(node, bundle, Status.FAILED, code="MADE_UP", message="nul \0 and " + "long" * 5000, payload=b"{}")
    ledger.collect()
    task = ledger.task(task_id)
    assert task["code"] == "TASK_ERROR"
    assert task["message"].startswith("nul ") and len(task["message"]) < 3000


# Returned, lost, skipped, running


def test_a_call_given_back_goes_out_again_and_costs_no_attempt(ledger: Ledger, node: FakeNode) -> None:
    task_id, bundle = _one(ledger, node, max_attempts=1)
    for _ in range(5):
        _report(node, bundle, Status.RETURNED)
        ledger.collect()
        (bundle,) = node.take()
        assert bundle.calls[0].attempt == 1
    _report(node, bundle, Status.SUCCEEDED)
    ledger.collect()
    assert (ledger.task(task_id)["state"], ledger.task(task_id)["attempt"]) == ("succeeded", 1)


def test_a_lost_call_is_started_max_attempts_times(ledger: Ledger, node: FakeNode) -> None:
    task_id, bundle = _one(ledger, node, max_attempts=3)
    for attempt in (1, 2, 3):
        assert bundle.calls[0].attempt == attempt
        _report(node, bundle, Status.LOST, message="the runner died: SIGSEGV")
        ledger.collect()
        bundles = node.take()
        bundle = bundles[0] if bundles else bundle
    task = ledger.task(task_id)
    assert (task["state"], task["code"], task["attempt"]) == ("failed", "WORKER_LOST", 3)
    assert "SIGSEGV" in task["message"]
    assert not node.take()


@pytest.mark.parametrize(
    ("why", "times", "code"),
    [
        (Interruption.WALLTIME, MAX_WALLTIMES, "WALLTIME_EXCEEDED"),
        (Interruption.STOPPED, MAX_INTERRUPTIONS, "WORKER_LOST"),
    ],
)
def test_interruptions_are_counted_apart_and_end_too(
    ledger: Ledger, node: FakeNode, why: str, times: int, code: str
) -> None:
    """A call longer than any walltime must not be requeued indefinitely."""
    task_id, bundle = _one(ledger, node, max_attempts=2)
    _report(node, bundle, Status.LOST, message="the runner died")
    ledger.collect()
    for number in range(times):
        assert ledger.task(task_id)["state"] != "failed", number
        (bundle,) = node.take()
        _report(node, bundle, Status.LOST, code=why, message="its job ended", wall=50.0)
        ledger.collect()
    task = ledger.task(task_id)
    assert (task["state"], task["code"]) == ("failed", code)
    assert re.search(rf"\b{times}\b", task["message"].replace(task_id, ""))
    assert not node.take()


def test_a_call_that_may_start_once_is_not_started_again_by_an_interruption(
    ledger: Ledger, node: FakeNode
) -> None:
    task_id, bundle = _one(ledger, node, max_attempts=1)
    _report(node, bundle, Status.LOST, code=Interruption.STOPPED)
    ledger.collect()
    assert (ledger.task(task_id)["state"], ledger.task(task_id)["code"]) == ("failed", "WORKER_LOST")


def test_a_call_that_was_cut_off_is_known_to_be_long(ledger: Ledger, node: FakeNode) -> None:
    """So that it is not sent to a worker whose job is about to end."""
    _, bundle = _one(ledger, node)
    assert bundle.seconds == 0.0
    _report(node, bundle, Status.LOST, code=Interruption.WALLTIME, wall=500.0)
    ledger.collect()
    (again,) = node.take()
    assert again.seconds == 500.0


@pytest.mark.parametrize("status", [Status.RETURNED, Status.LOST, Status.RUNNING])
def test_a_report_that_comes_twice_counts_once(ledger: Ledger, node: FakeNode, status: str) -> None:
    """A collector that dies after its commit applies the same reports again."""
    task_id, bundle = _one(ledger, node)
    _report(node, bundle, status)
    ledger.collect()
    again = node.take()
    before = ledger.task(task_id)
    node.repeat()
    ledger.collect()
    assert not node.take(), "the call is out twice"
    assert ledger.task(task_id) == before
    for bundle in again or [bundle]:
        _report(node, bundle, Status.SUCCEEDED)
    ledger.collect()
    assert ledger.task(task_id)["state"] == "succeeded"


@pytest.mark.parametrize("status", [Status.RETURNED, Status.LOST, Status.RUNNING])
def test_an_old_bundle_says_nothing_about_where_the_call_is_now(
    ledger: Ledger, node: FakeNode, status: str
) -> None:
    """A returned call keeps its attempt number; reports of its first bundle no longer count."""
    task_id, first = _one(ledger, node)
    _report(node, first, Status.RETURNED)
    ledger.collect()
    (second,) = node.take()
    assert second.calls[0].attempt == first.calls[0].attempt
    before = ledger.task(task_id)
    _report(node, first, status)
    ledger.collect()
    assert ledger.task(task_id) == before and not node.take()


def test_a_running_call_is_seen_running(ledger: Ledger, node: FakeNode) -> None:
    task_id, bundle = _one(ledger, node)
    started = time.time()
    _report(node, bundle, Status.RUNNING, started=started, wall=0.3)
    ledger.collect()
    task = ledger.task(task_id)
    assert (task["state"], task["node"], task["started"]) == ("running", "n1", started)
    _report(node, bundle, Status.SUCCEEDED)
    ledger.collect()
    _report(node, bundle, Status.RUNNING)
    ledger.collect()
    assert ledger.task(task_id)["state"] == "succeeded"


def test_a_call_may_be_running_and_done_in_one_report(ledger: Ledger, node: FakeNode) -> None:
    task_id, bundle = _one(ledger, node)
    (call,) = bundle.calls
    node.report({bundle.id: [outcome(bundle, call, Status.RUNNING), outcome(bundle, call)]})
    ledger.collect()
    assert ledger.task(task_id)["state"] == "succeeded"


def test_a_running_call_makes_its_kind_known_as_long(ledger: Ledger, node: FakeNode) -> None:
    """Calls that turn out long are sent one by one, and no more than the slots can run."""
    ledger.collect()
    answer = ledger.submit(node.endpoint, 100)
    bundles = node.take()
    assert len(bundles[0].calls) > 10
    for bundle in bundles:
        first, *rest = bundle.calls
        running = [outcome(bundle, first, Status.RUNNING, wall=2.0)] if bundle is bundles[0] else []
        back = [outcome(bundle, call, Status.RETURNED) for call in (rest if running else bundle.calls)]
        node.report({bundle.id: running + back})
    ledger.collect()
    assert [len(bundle.calls) for bundle in node.take()] == [1]
    assert ledger.states(answer) == {"running": 1, "dispatched": 1, "queued": 98}


def test_a_skipped_call_is_cancelled(ledger: Ledger, node: FakeNode) -> None:
    task_id, bundle = _one(ledger, node)
    _report(node, bundle, Status.SKIPPED)
    ledger.collect()
    assert ledger.task(task_id)["state"] == "cancelled"


# Retries


@pytest.mark.parametrize(
    ("retry_on", "again"),
    [((), True), (("ValueError",), True), (("builtins.ValueError",), True), (("KeyError",), False)],
)
def test_retries_are_for_the_exceptions_that_were_named(
    ledger: Ledger, node: FakeNode, retry_on: tuple[str, ...], again: bool
) -> None:
    task_id, bundle = _one(ledger, node, retries=1, retry_on=retry_on)
    _report(node, bundle, Status.FAILED)
    ledger.collect()
    assert bool(node.take()) is again
    assert ledger.task(task_id)["state"] == ("dispatched" if again else "failed")


def test_a_call_is_retried_so_often_and_no_more(ledger: Ledger, node: FakeNode) -> None:
    task_id, bundle = _one(ledger, node, retries=2, max_attempts=1)
    for _ in range(2):
        _report(node, bundle, Status.FAILED)
        ledger.collect()
        (bundle,) = node.take()
    _report(node, bundle, Status.FAILED)
    ledger.collect()
    task = ledger.task(task_id)
    assert (task["state"], task["code"], task["retried"], task["attempt"]) == ("failed", "TASK_ERROR", 2, 3)


def test_only_exceptions_are_retried(ledger: Ledger, node: FakeNode) -> None:
    task_id, bundle = _one(ledger, node, retries=5)
    _report(node, bundle, Status.FAILED, code="TIMEOUT")
    ledger.collect()
    assert ledger.task(task_id)["code"] == "TIMEOUT"


@pytest.mark.parametrize("taken", [False, True], ids=["still queued", "at the worker again"])
def test_a_failure_reported_twice_is_retried_and_not_final(
    ledger: Ledger, node: FakeNode, taken: bool
) -> None:
    task_id, bundle = _one(ledger, node, retries=1)
    _report(node, bundle, Status.FAILED)
    if taken:
        ledger.collect()
    node.repeat()
    ledger.collect()
    (second,) = node.take()
    _report(node, second, Status.SUCCEEDED)
    ledger.collect()
    assert ledger.task(task_id)["state"] == "succeeded"


def test_losses_are_counted_apart_from_retries(ledger: Ledger, node: FakeNode) -> None:
    task_id, bundle = _one(ledger, node, retries=1, max_attempts=2)
    for status in (Status.FAILED, Status.LOST, Status.LOST):
        _report(node, bundle, status)
        ledger.collect()
        taken = node.take()
        bundle = taken[0] if taken else bundle
    task = ledger.task(task_id)
    assert (task["code"], task["attempt"], task["retried"]) == ("WORKER_LOST", 3, 1)


# Reports with invalid content


@pytest.mark.parametrize(
    "nonsense",
    [
        {"attempt": "one"},
        {"attempt": 10**30},
        {"attempt": None},
        {"wall": "long"},
        {"wall": {"a": 1}},
        {"started": [1]},
        {"message": {"not": "text"}},
        {"usage": "much"},
        {"status": ["?"]},
        {"status": "unheard of"},
        {"task_id": 7},
        {"code": ["TASK_ERROR"]},
    ],
    ids=str,
)
def test_nonsense_stops_neither_the_collector_nor_other_reports(
    ledger: Ledger, node: FakeNode, nonsense: dict[str, Any]
) -> None:
    ledger.collect()
    answers = [ledger.submit(node.endpoint, [b"x"]) for _ in range(3)]
    bundles = node.take()
    _report(node, bundles[0], Status.SUCCEEDED)
    bad = outcome(bundles[1], bundles[1].calls[0], Status.FAILED)._replace(**nonsense)
    node.report({bundles[1].id: [bad]})
    _report(node, bundles[2], Status.SUCCEEDED)
    ledger.collect()
    assert [ledger.state(answers[0]), ledger.state(answers[2])] == ["succeeded", "succeeded"]
    assert ledger.broker.reports() == 0


def test_a_goodbye_may_be_the_first_word_of_a_node(ledger: Ledger, lab: FakeEndpoint) -> None:
    lab.node("unheard", beat=False).goodbye()
    other = lab.node("other")
    ledger.collect()
    answer = ledger.submit(lab)
    other.take()
    other.finish()
    ledger.collect()
    assert ledger.state(answer) == "succeeded"


def test_outcomes_may_be_the_first_word_of_a_node(ledger: Ledger, lab: FakeEndpoint) -> None:
    node = lab.node("shy", beat=False)
    answer = ledger.submit(lab, 3)
    node.take()
    node.finish()
    ledger.collect()
    assert ledger.state(answer) == "succeeded"
    assert ledger.task(answer["task_ids"][0])["node"] == "shy"
