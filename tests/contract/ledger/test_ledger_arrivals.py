"""Accepting waits for no endpoint's lock, and no call is forgotten whatever happens at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
from sqlalchemy import select, update

from federation import dispatch
from federation.db import shared
from federation.db.engine import Database
from federation.db.errors import DatabaseDeadlock
from federation.db.tables import arrivals, loads
from federation.ledger import task_list, totals
from federation.ledger.cancel import cancel_group
from federation.ledger.submit import Submission, submit
from federation.provision.planning import demand
from federation.registry import endpoints
from tests.support import database_faults
from tests.support.endpoint import FakeEndpoint, FakeNode, outcome
from tests.support.ledger import Ledger
from tests.support.postgres import Server
from umbel.protocol.errors import Conflict, TooMany
from umbel.protocol.messages import Status


def _uncounted(database: Database) -> int:
    with database.read() as connection:
        return len(connection.execute(select(arrivals)).all())


@pytest.mark.usefixtures("server")
def test_a_submission_does_not_wait_for_the_lock(
    ledger: Ledger, lab: FakeEndpoint, database: Database
) -> None:
    with database.write() as connection:
        shared.lock_endpoints(connection, [lab.no])
        answer = ledger.submit(lab, 3)
        again = ledger.submit(lab, 2, group_id=answer["group_id"])
        assert ledger.state(answer) == ledger.state(again) == "queued"
        assert ledger.results(answer["group_id"])["live"] == 5
        assert _uncounted(database) == 2
    dispatch.catch_up(ledger.fed, [lab.no])
    assert ledger.state(answer) == ledger.state(again) == "dispatched"
    assert ledger.results(answer["group_id"])["live"] == 5
    ledger.check()


@pytest.mark.usefixtures("server")
def test_calls_that_are_not_counted_are_shown(ledger: Ledger, lab: FakeEndpoint, database: Database) -> None:
    me = ledger.me
    with database.write() as connection:
        shared.lock_endpoints(connection, [lab.no])
        answer = ledger.submit(lab, 3)
        assert endpoints.get(ledger.fed, me, lab.id)["queue"]["queued"] == 3
        listed, _ = task_list.tasks_page(ledger.fed, me, state="queued")
        assert sorted(task["id"] for task in listed) == sorted(answer["task_ids"])
        with database.read() as other:
            assert [work.calls for work in demand.observe(other, lab.no, ledger.clock()).work] == [3]
    dispatch.catch_up(ledger.fed, [lab.no])
    assert endpoints.get(ledger.fed, me, lab.id)["queue"] == {"queued": 0, "dispatched": 3, "running": 0}


@pytest.mark.usefixtures("server")
def test_calls_that_are_not_counted_are_no_mistake_of_the_totals(
    ledger: Ledger, lab: FakeEndpoint, database: Database
) -> None:
    ledger.submit(lab, 1)
    with database.write() as connection:
        shared.lock_endpoints(connection, [lab.no])
        ledger.submit(lab, 3)
        assert totals.differences(connection, lab.no) == {}
    ledger.sweep()


@pytest.mark.usefixtures("server")
def test_calls_that_arrive_while_totals_are_corrected(
    ledger: Ledger, lab: FakeEndpoint, node: FakeNode, database: Database
) -> None:
    """A submission before any statement of the check is counted once, and sent."""
    ledger.submit(lab, 1)
    number = 0
    while True:
        with database.write() as connection:
            connection.execute(update(loads).values(live=loads.c.live + 1, running=loads.c.running + 1))
        answers: list[dict[str, Any]] = []

        def strike() -> None:
            answers.append(ledger.submit(lab, 1))

        with database_faults.at_statement(database, number, strike) as struck:
            totals.TotalsCheck(ledger.fed).check_next()
        ledger.check()
        if not struck:
            break
        assert ledger.state(answers[0]) == "dispatched", f"forgotten at statement {number}"
        node.take()
        node.finish()
        ledger.collect()
        number += 1
    assert number > 8


@pytest.mark.usefixtures("server", "node")
def test_calls_of_several_functions_arrive_at_once(
    ledger: Ledger, lab: FakeEndpoint, database: Database
) -> None:
    parts = [(ledger.function(ledger.me, name), calls) for name, calls in (("f", 2), ("g", 1), ("f", 3))]
    with database.write() as connection:
        shared.lock_endpoints(connection, [lab.no])
        wanted = Submission(None, lab.id, [b"%d" % no for no in range(6)], functions=parts)
        answer = submit(ledger.fed, ledger.me, wanted)
        assert _uncounted(database) == 1
        assert ledger.results(answer["group_id"])["live"] == 6
    dispatch.catch_up(ledger.fed, [lab.no])
    assert ledger.state(answer) == "dispatched"
    assert [ledger.task(id)["function_id"] for id in answer["task_ids"]] == [
        id for id, calls in parts for _ in range(calls)
    ]


@pytest.mark.usefixtures("server")
def test_the_sweeper_finds_what_a_crashed_process_left(
    ledger: Ledger, lab: FakeEndpoint, database: Database
) -> None:
    with database.write() as connection:
        shared.lock_endpoints(connection, [lab.no])
        answer = ledger.submit(lab, 3)
    assert ledger.state(answer) == "queued"
    ledger.sweep()
    assert ledger.state(answer) == "dispatched"


def _acts(ledger: Ledger, lab: FakeEndpoint, node: FakeNode) -> dict[str, Callable[[], Callable[[], Any]]]:
    """Transactions that have the lock of the endpoint: each is prepared, then run."""

    def apply() -> Callable[[], Any]:
        ledger.submit(lab, 2)
        node.take()
        node.finish()
        return ledger.collect

    def cancel() -> Callable[[], Any]:
        group = ledger.submit(lab, 2)["group_id"]
        return lambda: cancel_group(ledger.fed, ledger.me, group)

    return {"accept": lambda: lambda: ledger.submit(lab, 2), "apply": apply, "cancel": cancel}


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("kind", ["accept", "apply", "cancel"])
def test_calls_that_arrive_during_a_transaction_are_sent_after_it(
    ledger: Ledger, lab: FakeEndpoint, node: FakeNode, database: Database, kind: str
) -> None:
    """A submission before any statement of another transaction is sent without help of the sweeper."""
    number = skipped = 0
    while True:
        act = _acts(ledger, lab, node)[kind]()
        answers: list[dict[str, Any]] = []

        def strike() -> None:
            answers.append(ledger.submit(lab, 1))

        with database_faults.at_statement(database, number, strike) as struck:
            found = ledger.state
            act()
        if not struck:
            break
        assert found(answers[0]) == "dispatched", f"forgotten at statement {number}"
        skipped += ledger.broker.queues[lab.id][-1].calls == 1
        node.take()
        node.finish()
        ledger.collect()
        number += 1
    assert number > 5 and skipped


@pytest.mark.usefixtures("server")
def test_a_lock_that_becomes_free_during_a_submission(
    ledger: Ledger, lab: FakeEndpoint, node: FakeNode, database: Database
) -> None:
    """The transaction that had the lock ends, and looks, before any statement of a submission."""
    number = 0
    while True:
        with ExitStack() as holder:
            connection = holder.enter_context(database.write())
            shared.lock_endpoints(connection, [lab.no])

            def strike() -> None:
                holder.close()
                dispatch.catch_up(ledger.fed, [lab.no])

            with database_faults.at_statement(database, number, strike) as struck:
                answer = ledger.submit(lab, 1)
            if not struck:
                break
        assert ledger.state(answer) == "dispatched", f"forgotten at statement {number}"
        node.take()
        node.finish()
        ledger.collect()
        number += 1
    dispatch.catch_up(ledger.fed, [lab.no])
    assert number > 5


def test_an_endpoint_with_calls_that_are_not_counted_is_in_use(
    ledger: Ledger, lab: FakeEndpoint, database: Database, server: Server
) -> None:
    with database.write() as connection:
        shared.lock_endpoints(connection, [lab.no])
        ledger.submit(lab, 1)
    with pytest.raises(Conflict, match="unfinished tasks"):
        endpoints.delete(ledger.fed, ledger.me, lab.id)
    ledger.sweep()


@pytest.mark.parametrize("server_settings", [{"max_endpoint_calls": 40}, {"max_user_calls": 40}])
def test_submissions_at_the_same_time_keep_the_limit(ledger: Ledger, lab: FakeEndpoint) -> None:
    accepted: list[dict[str, Any]] = []
    failures: list[BaseException] = []
    gate = threading.Barrier(8)

    def fill() -> None:
        gate.wait(10)
        try:
            while True:
                accepted.append(ledger.submit(lab, 1))
        except TooMany:
            pass
        except BaseException as error:  # raised by the test
            failures.append(error)

    threads = [threading.Thread(target=fill) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures and len(accepted) == 40


def test_a_transaction_is_repeated_after_a_deadlock(database: Database) -> None:
    failures = [DatabaseDeadlock("deadlock detected")] * 2

    def act(_: object) -> str:
        if failures:
            raise failures.pop()
        return "done"

    assert database.retry_write(act) == "done"


def test_connections_that_were_cut_while_idle_are_replaced(
    ledger: Ledger, lab: FakeEndpoint, server: Server, database: Database
) -> None:
    ledger.submit(lab, 1)
    database_faults.cut_connections(server, str(database.url.database))
    assert ledger.state(ledger.submit(lab, 1)) == "dispatched"


_STRANGE = [
    "",
    "{}",
    "{,}",
    'a "quote"',
    "back\\slash\\",
    "NULL",
    "tab\tline\n",
    "ü 🦋",
    "%s %(x)s",
    "'",
    "\\n",
    "0",
]


def test_many_rows_keep_strange_strings(ledger: Ledger, lab: FakeEndpoint, node: FakeNode) -> None:
    answer = ledger.submit(lab, len(_STRANGE))
    expected = dict(zip(answer["task_ids"], _STRANGE))
    for bundle in node.take():
        node.report(
            {
                bundle.id: [
                    outcome(bundle, call, Status.FAILED, code="MEMORY_LIMIT", message=expected[call.task_id])
                    for call in bundle.calls
                ]
            }
        )
    ledger.collect()
    while node.take():
        node.report(
            {
                bundle.id: [
                    outcome(bundle, call, Status.FAILED, code="MEMORY_LIMIT", message=expected[call.task_id])
                    for call in bundle.calls
                ]
                for bundle in list(node.held.values())
            }
        )
        ledger.collect()
    found = {row["task_id"]: row["message"] for row in ledger.results(answer["group_id"])["results"]}
    assert found == expected
