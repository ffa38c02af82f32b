"""Pruning: what tasks leave behind is deleted in time, and nothing that is in use."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import func, insert, select, update

from federation.db import free_pages
from federation.db.tables import estimates, functions, samples, submissions, tasks
from federation.ledger import pruning
from federation.ledger.pruning import Pruner
from federation.registry import functions as registry
from tests.support.endpoint import FakeEndpoint
from tests.support.ledger import Ledger
from umbel.serialize import dump_function

DAY = 86400.0


@pytest.fixture
def server_settings() -> dict[str, Any]:
    return {"retention": 2 * DAY, "function_retention": 10 * DAY}


def count(ledger: Ledger, table: Any) -> int:
    with ledger.fed.database.read() as connection:
        return connection.execute(select(func.count()).select_from(table)).scalar_one()


def set_all(ledger: Ledger, table: Any, **values: Any) -> None:
    with ledger.fed.database.write() as connection:
        connection.execute(update(table).values(**values))


def finish(ledger: Ledger, lab: FakeEndpoint) -> None:
    node = lab.node()
    ledger.collect()
    while node.take():
        node.finish()
        ledger.collect()


def known(ledger: Ledger) -> set[str]:
    with ledger.fed.database.read() as connection:
        return set(connection.execute(select(functions.c.id)).scalars())


def prune(ledger: Ledger, after: float) -> int:
    """Prune everything at a time after now."""
    pruner, total = Pruner(ledger.fed), 0
    while found := pruner.prune(ledger.clock() + after):
        total += found
    return total


def test_submissions_whose_tasks_are_gone_go_while_their_group_lives(
    ledger: Ledger, lab: FakeEndpoint
) -> None:
    group = ledger.submit(lab, 3)["group_id"]
    finish(ledger, lab)
    ledger.clock.forward(3 * DAY)
    ledger.submit(lab, 2, group_id=group)
    finish(ledger, lab)
    ledger.sweep()
    assert (count(ledger, tasks), count(ledger, submissions)) == (2, 1)
    assert len(ledger.results(group)["results"]) == 2


def test_submissions_with_unfinished_tasks_stay_however_old(ledger: Ledger, lab: FakeEndpoint) -> None:
    ledger.submit(lab, 2)
    assert prune(ledger, 1000 * DAY) == 0
    assert (count(ledger, submissions), known(ledger)) == (1, {ledger.function_id})


def test_pages_are_visited_in_turn(
    ledger: Ledger, lab: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "PAGE", 2)
    for _ in range(3):
        ledger.submit(lab, 1)
    with ledger.fed.database.write() as connection:
        row = connection.execute(select(submissions).limit(1)).one()
        values = {"created": row.created, "group_no": row.group_no, "user_no": row.user_no}
        values |= {"endpoint_no": row.endpoint_no, "function_no": row.function_no}
        connection.execute(insert(submissions), [values] * 3)
    pruner, counts = Pruner(ledger.fed), []
    for _ in range(8):
        pruner.prune(ledger.clock() + 3 * DAY)
        counts.append(count(ledger, submissions))
    assert counts[0] == 6 and counts[-1] == 3, "those with tasks stay, and do not hide the others"


def test_functions_go_when_nobody_has_used_them_for_long(ledger: Ledger, lab: FakeEndpoint) -> None:
    other = registry.register(ledger.fed, ledger.me, name="other", body=dump_function(len).data)["id"]
    ledger.submit(lab, 1)
    finish(ledger, lab)
    ledger.sweep(after=9 * DAY)  # the task goes, and the function notes when it was used
    assert count(ledger, submissions) == 0
    assert known(ledger) == {ledger.function_id, other}
    set_all(ledger, functions, created=ledger.clock() - 20 * DAY)
    prune(ledger, 0.0)
    assert known(ledger) == {ledger.function_id}, "the other one was never used"
    assert count(ledger, samples)
    prune(ledger, 2 * DAY)
    assert known(ledger) == set() and count(ledger, samples) == 0


def test_a_function_that_is_registered_again_stays(ledger: Ledger, lab: FakeEndpoint) -> None:
    body = dump_function(len).data
    one = registry.register(ledger.fed, ledger.me, name="len", body=body)["id"]
    ledger.clock.forward(11 * DAY)
    assert registry.register(ledger.fed, ledger.me, name="len", body=body)["id"] == one
    prune(ledger, 9 * DAY)
    assert one in known(ledger)
    prune(ledger, 11 * DAY)
    assert one not in known(ledger)


@pytest.mark.parametrize("server_settings", [{"retention": 2 * DAY, "function_retention": 0}])
def test_functions_are_kept_indefinitely_unless_they_are_deleted(ledger: Ledger) -> None:
    other = registry.register(ledger.fed, ledger.me, name="other", body=dump_function(len).data)["id"]
    registry.delete(ledger.fed, ledger.me, other)
    assert prune(ledger, DAY) == 0
    prune(ledger, 1000 * DAY)
    assert known(ledger) == {ledger.function_id}


def test_old_estimates_go(ledger: Ledger, lab: FakeEndpoint) -> None:
    ledger.submit(lab, 1)
    finish(ledger, lab)
    assert count(ledger, estimates) == 1
    prune(ledger, 9 * DAY)
    assert count(ledger, estimates) == 1
    prune(ledger, 11 * DAY)
    assert count(ledger, estimates) == 0


def test_free_pages_go_back_to_the_file_system(
    ledger: Ledger, lab: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(free_pages, "KEPT", 8)
    monkeypatch.setattr(free_pages, "PAGES", 4)
    database = ledger.fed.database
    if not database.sqlite:
        assert free_pages.release(database) == 0
        return

    def pages() -> int:
        with database.read() as connection:
            driver: Any = connection.connection.driver_connection
            return int(driver.execute("PRAGMA page_count").fetchone()[0])

    ledger.submit(lab, [bytes(100_000)] * 10)
    finish(ledger, lab)
    ledger.sweep(after=3 * DAY)
    before = pages()
    assert free_pages.release(database) == 4
    assert pages() <= before - 4
    while free_pages.release(database):
        pass
    assert pages() < before / 2
