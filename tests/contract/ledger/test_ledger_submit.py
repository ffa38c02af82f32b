"""Accepting submissions."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from sqlalchemy import func, select, update

from federation.db.options import Options
from federation.db.tables import blobs, idempotency, tasks
from federation.ledger import query, results
from federation.registry import functions
from tests.support.endpoint import FakeEndpoint
from tests.support.ledger import Ledger
from umbel.protocol import limits, names
from umbel.protocol.errors import BadRequest, Conflict, NotFound, ServiceError, TooLarge, TooMany
from umbel.protocol.run_options import RunOptions


def _count(ledger: Ledger, table: Any = tasks) -> int:
    with ledger.fed.database.read() as connection:
        return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


def test_an_accepted_call_is_run_and_its_result_is_read(ledger: Ledger, lab: FakeEndpoint) -> None:
    node = lab.node()
    answer = ledger.submit(lab, [b"x", b"y"])
    assert ledger.state(answer) == "dispatched"
    node.take()
    node.finish()
    assert ledger.collect() == {"ended": 2, "dropped": 0}
    found = ledger.results(answer["group_id"])
    shown = {r["task_id"]: r["result"] for r in found["results"]}
    assert shown == dict(zip(answer["task_ids"], [b"r:x", b"r:y"]))
    assert [r["completion"] for r in found["results"]] == [1, 2]
    last = {"results": [], "cursor": 2, "live": 0, "epoch": found["epoch"]}
    assert ledger.results(answer["group_id"], found["cursor"]) == last
    assert ledger.broker.woken == [answer["group_id"]]


def test_task_ids_are_in_the_order_of_the_calls(ledger: Ledger, lab: FakeEndpoint) -> None:
    answer = ledger.submit(lab, 500)
    assert answer["task_ids"] == sorted(answer["task_ids"])
    assert len(set(answer["task_ids"])) == 500


def test_the_endpoint_may_be_named(ledger: Ledger, lab: FakeEndpoint) -> None:
    lab.id = "lab"  # the name instead of the id
    answer = ledger.submit(lab)
    assert ledger.task(answer["task_ids"][0])["endpoint_id"] != "lab"


def test_options_are_seen_on_the_task(ledger: Ledger, lab: FakeEndpoint) -> None:
    asked = Options(
        timeout=3.0, expires=60.0, retries=2, retry_on=("ValueError",), priority=7, tags=("a", "b")
    )
    answer = ledger.submit(lab, 1, **asked.__dict__)
    task = ledger.task(answer["task_ids"][0])
    assert task["priority"] == 7 and task["tags"] == ["a", "b"]
    assert Options.from_json(asked.to_json()) == asked
    assert task["options"]["retry_on"] == ["ValueError"] and task["options"]["timeout"] == 3.0
    assert task["expires"] == pytest.approx(task["created"] + 60)


def test_run_options_reach_the_worker(ledger: Ledger, lab: FakeEndpoint) -> None:
    node = lab.node()
    ledger.submit(lab, 1, timeout=2.5, memory=10**9, cpu=1.0)
    (bundle,) = node.take()
    assert (bundle.options.timeout, bundle.options.memory, bundle.options.cpu) == (2.5, 10**9, 1.0)
    assert (bundle.function.name, bundle.user) == ("dock", "ada")


def test_limits_of_the_function_tighten_those_of_the_submission(ledger: Ledger, lab: FakeEndpoint) -> None:
    head = b'{"limits": {"timeout": 2.0, "memory": 4194304, "open_files": 64}}'
    body = b"UMBF" + len(head).to_bytes(4, "big") + head
    made = functions.register(ledger.fed, ledger.me, name="small", body=body)
    assert made["limits"] == {"timeout": 2.0, "memory": 4194304, "open_files": 64}
    node = lab.node(slots=4)
    ledger.collect()
    for options in ({}, {"timeout": 9.0, "memory": 2097152, "cpu": 1.0, "cores": 2}):
        answer = ledger.submit(lab, 1, function_id=made["id"], **options)
        # the options are returned as they were submitted
        assert ledger.task(answer["task_ids"][0])["options"] == options
    first, second = (bundle.options for bundle in node.take())
    assert first == RunOptions(timeout=2.0, memory=4194304, open_files=64)
    assert second == RunOptions(timeout=2.0, memory=2097152, cpu=1.0, cores=2, open_files=64)


def test_equal_arguments_are_stored_and_sent_once(ledger: Ledger, lab: FakeEndpoint) -> None:
    node = lab.node(slots=1)
    large = b"x" * 100_000
    ledger.submit(lab, [large] * 50)
    bundles = node.take()
    assert _count(ledger, blobs) == 1
    assert {len(bundle.body) for bundle in bundles} == {len(large)}
    assert sum(len(bundle.calls) for bundle in bundles) > 1


def test_large_arguments_of_one_size_and_end_stay_apart(ledger: Ledger, lab: FakeEndpoint) -> None:
    node = lab.node(slots=4)
    payloads = [bytes([number]) + b"x" * 100_000 for number in range(3)]
    ledger.submit(lab, [payloads[0], *payloads, payloads[2]])
    sent = [
        bundle.body[call.offset : call.offset + call.size] for bundle in node.take() for call in bundle.calls
    ]
    assert sorted(sent) == sorted([payloads[0], *payloads, payloads[2]])


def test_calls_of_many_sizes_arrive_whole(ledger: Ledger, lab: FakeEndpoint) -> None:
    node = lab.node(slots=8)
    payloads = [
        bytes([n % 251]) * size for n, size in enumerate([0, 1, 5, 300_000, 2, 262_144, 7, 900_000, 0])
    ]
    answer = ledger.submit(lab, payloads)
    while node.take():
        node.finish()
        ledger.collect()
    for task_id, payload in zip(answer["task_ids"], payloads):
        result = results.result(ledger.fed, ledger.me, task_id)
        assert result["result"] == b"r:" + payload


def test_nothing_is_accepted_of_a_bad_submission(ledger: Ledger, lab: FakeEndpoint) -> None:
    def refused(error: type[ServiceError], code: str, *args: Any, **kwargs: Any) -> None:
        with pytest.raises(error) as caught:
            ledger.submit(*args, **kwargs)
        assert caught.value.code == code

    refused(BadRequest, "VALIDATION_ERROR", lab, [])
    refused(BadRequest, "VALIDATION_ERROR", lab, limits.MAX_CALLS_PER_SUBMISSION + 1)
    refused(TooLarge, "PAYLOAD_TOO_LARGE", lab, [b"", bytes(limits.MAX_PAYLOAD_BYTES + 1)])
    refused(NotFound, "FUNCTION_NOT_FOUND", lab, 1, function_id=names.new_id())
    eve = ledger.user("eve")
    refused(NotFound, "ENDPOINT_NOT_FOUND", lab, 1, user=eve)
    theirs = ledger.endpoint("theirs", eve)
    refused(NotFound, "FUNCTION_NOT_FOUND", theirs, 1, user=eve)  # the function is ada's
    refused(NotFound, "ENDPOINT_NOT_FOUND", theirs, 1)
    assert _count(ledger) == 0 and _count(ledger, blobs) == 0


def test_the_group_of_another_user_is_not_joined(ledger: Ledger, lab: FakeEndpoint) -> None:
    mine = ledger.submit(lab)["group_id"]
    eve = ledger.user("eve")
    with pytest.raises(NotFound):
        ledger.submit(
            ledger.endpoint("hers", eve), user=eve, group_id=mine, function_id=ledger.function(eve, "f")
        )
    with pytest.raises(NotFound):
        ledger.results(mine, user=eve)


def test_a_group_is_made_with_the_clients_id_and_joined_later(ledger: Ledger, lab: FakeEndpoint) -> None:
    group_id = names.new_id()
    with pytest.raises(NotFound) as caught:
        ledger.results(group_id)
    assert caught.value.code == "GROUP_NOT_FOUND"
    assert ledger.submit(lab, 2, group_id=group_id)["group_id"] == group_id
    assert ledger.submit(lab, 3, group_id=group_id)["group_id"] == group_id
    assert query.group(ledger.fed, ledger.me, group_id)["total"] == 5


def test_a_repeated_request_gets_the_first_answer(ledger: Ledger, lab: FakeEndpoint) -> None:
    first = ledger.submit(lab, 3, key="k")
    assert ledger.submit(lab, 3, key="k") == first
    assert _count(ledger) == 3
    other = ledger.submit(lab, 3, key="another")
    assert other["task_ids"] != first["task_ids"]


def test_an_answer_is_stored_in_few_bytes_and_one_of_an_earlier_release_is_read(
    ledger: Ledger, lab: FakeEndpoint
) -> None:
    first = ledger.submit(lab, 300, key="k")
    with ledger.fed.database.write() as connection:
        assert len(connection.execute(select(idempotency.c.answer)).scalar_one()) < 150
        connection.execute(update(idempotency).values(answer=json.dumps(first)))
    assert ledger.submit(lab, 300, key="k") == first


@pytest.mark.parametrize(
    "changed", [{"calls": [b"other"]}, {"calls": 2}, {"priority": 1}, {"group_id": names.new_id()}]
)
def test_a_key_is_good_for_one_submission(ledger: Ledger, lab: FakeEndpoint, changed: dict[str, Any]) -> None:
    ledger.submit(lab, 1, key="k")
    with pytest.raises(Conflict) as caught:
        ledger.submit(lab, key="k", **changed)
    assert caught.value.code == "IDEMPOTENCY_MISMATCH"
    assert _count(ledger) == 1


def test_keys_of_two_users_do_not_meet(ledger: Ledger, lab: FakeEndpoint) -> None:
    first = ledger.submit(lab, 1, key="k")
    eve = ledger.user("eve")
    theirs = ledger.endpoint("theirs", eve)
    second = ledger.submit(theirs, 1, user=eve, function_id=ledger.function(eve, "f"), key="k")
    assert first["task_ids"] != second["task_ids"]


def _at_once(count: int, act: Any) -> list[Any]:
    """Call ``act(number)`` in so many threads at once; return what each returned or raised."""
    gate = threading.Barrier(count)
    got: list[Any] = [None] * count

    def run(number: int) -> None:
        gate.wait(10)
        try:
            got[number] = act(number)
        except Exception as error:  # returned to the test, which checks it
            got[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return got


def test_the_same_request_many_times_at_once_is_accepted_once(ledger: Ledger, lab: FakeEndpoint) -> None:
    group_id = names.new_id()
    answers = _at_once(8, lambda _: ledger.submit(lab, 20, group_id=group_id, key="k"))
    assert all(answer == answers[0] for answer in answers), answers
    assert _count(ledger) == 20


def test_the_first_requests_of_a_group_may_come_at_once(ledger: Ledger, lab: FakeEndpoint) -> None:
    """A client creates the group's id, and several of its first requests arrive at the same time."""
    group_id = names.new_id()
    places = [lab, *(ledger.endpoint(f"e{n}") for n in range(3))]
    answers = _at_once(8, lambda n: ledger.submit(places[n % 4], 5, group_id=group_id, key=f"k{n}"))
    assert [answer for answer in answers if isinstance(answer, Exception)] == []
    assert query.group(ledger.fed, ledger.me, group_id)["total"] == 40


@pytest.mark.parametrize(
    "server_settings", [{"max_user_calls": 10}, {"max_endpoint_calls": 10}], ids=["user", "endpoint"]
)
def test_more_than_the_limit_is_refused_until_calls_end(ledger: Ledger, lab: FakeEndpoint) -> None:
    node = lab.node()
    ledger.submit(lab, 10)
    with pytest.raises(TooMany) as caught:
        ledger.submit(lab, 1)
    assert (caught.value.code, caught.value.status) == ("QUEUE_FULL", 429)
    assert caught.value.details["retry_after"] > 0
    assert caught.value.details["live"] == 10
    bundle = node.take()[0]
    node.finish([bundle])
    ledger.collect()
    assert len(ledger.submit(lab, len(bundle.calls))["task_ids"]) == len(bundle.calls)


@pytest.mark.parametrize("server_settings", [{"max_user_calls": 10}])
def test_one_users_full_queue_is_not_anothers(ledger: Ledger, lab: FakeEndpoint) -> None:
    ledger.submit(lab, 10)
    eve = ledger.user("eve")
    theirs = ledger.endpoint("theirs", eve)
    assert ledger.submit(theirs, 10, user=eve, function_id=ledger.function(eve, "f"))


def test_a_broker_that_is_away_delays_and_loses_nothing(ledger: Ledger, lab: FakeEndpoint) -> None:
    node = lab.node()
    ledger.collect()
    ledger.clock.forward(60)
    node.beat()
    ledger.collect()
    ledger.broker.down = True
    answer = ledger.submit(lab, 5)
    assert ledger.state(answer) == "dispatched" and not node.take()
    ledger.broker.down = False
    for _ in range(8):
        node.beat()
        ledger.collect()
        ledger.sweep(after=5)
    node.take()
    node.finish()
    ledger.collect()
    assert ledger.state(answer) == "succeeded"
    assert ledger.task(answer["task_ids"][0])["attempt"] == 1
