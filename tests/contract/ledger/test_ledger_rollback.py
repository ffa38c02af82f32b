"""A ledger that goes back to an earlier state: readers start over, and no work is stuck or run too often."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from federation.db.engine import Database
from federation.ledger import results
from federation.registry import broker_accounts
from federation.services.rollback import MARK_FILE, MARK_KEY
from federation.services.sweeper import Sweeper
from tests.support.endpoint import FakeEndpoint, FakeNode
from tests.support.ledger import Ledger
from tests.support.postgres import Server
from umbel.protocol import names

Restore = Callable[[], None]


@pytest.fixture
def backup(ledger: Ledger, tmp_path: Path, postgresql: Server | None) -> Callable[[], Restore]:
    """Copies the database; calling the result restores the copy."""
    database: Database = ledger.fed.database

    def sqlite() -> Restore:
        file = Path(str(database.url.database))
        database.engine.dispose()
        copy = shutil.copy(file, tmp_path / "backup.sqlite")

        def restore() -> None:
            database.engine.dispose()
            for end in ("-wal", "-shm"):
                file.with_name(file.name + end).unlink(missing_ok=True)
            shutil.copy(copy, file)

        return restore

    def server() -> Restore:
        assert postgresql is not None and database.url.database
        name = database.url.database
        database.engine.dispose()
        copy = postgresql.new_database(name)

        def restore() -> None:
            database.engine.dispose()
            postgresql.drop(name)
            with postgresql.connect() as connection:
                connection.execute(f"ALTER DATABASE {copy} RENAME TO {name}".encode())

        return restore

    return sqlite if postgresql is None else server


def _page(ledger: Ledger, group: str, page: dict[str, Any] | None = None) -> dict[str, Any]:
    after, epoch = (0, None) if page is None else (page["cursor"], page["epoch"])
    return results.results_after(ledger.fed, ledger.me, group, after, 1000, epoch)


def _run(ledger: Ledger, node: FakeNode) -> None:
    """Run all that is waiting."""
    for _ in range(4):
        node.take()
        node.finish()
        node.beat()
        ledger.collect()
        ledger.sweep(after=15)


def test_a_restored_backup_gets_a_new_epoch_once(
    ledger: Ledger, lab: FakeEndpoint, node: FakeNode, backup: Callable[[], Restore]
) -> None:
    group = ledger.submit(lab, 3)["group_id"]
    ledger.sweep()
    restore = backup()
    _run(ledger, node)
    first = _page(ledger, group)
    assert len(first["results"]) == 3
    restore()
    ledger.sweep(after=1)
    second = _page(ledger, group, first)
    assert second["epoch"] != first["epoch"] and second["cursor"] == 0
    _run(ledger, node)
    third = _page(ledger, group, second)
    assert third["epoch"] == second["epoch"]
    assert {each["task_id"] for each in third["results"]} == {each["task_id"] for each in first["results"]}
    assert _page(ledger, group, third)["results"] == []


def test_a_restart_and_a_second_sweeper_change_nothing(
    ledger: Ledger, lab: FakeEndpoint, node: FakeNode
) -> None:
    group = ledger.submit(lab, 3)["group_id"]
    epoch = _page(ledger, group)["epoch"]
    other = Sweeper(ledger.fed, ledger.clock.ticks)
    for _ in range(3):
        _run(ledger, node)
        other.sweep()
        ledger.submit(lab, 1, group_id=group)
        ledger.sweeper = Sweeper(ledger.fed, ledger.clock.ticks)
    assert _page(ledger, group)["epoch"] == epoch


@pytest.mark.parametrize("place", ["file", "broker"])
def test_one_of_the_places_suffices(
    ledger: Ledger, lab: FakeEndpoint, backup: Callable[[], Restore], place: str
) -> None:
    ledger.sweep()
    restore = backup()
    group = ledger.submit(lab, 1)["group_id"]
    ledger.sweep()
    before = _page(ledger, group)["epoch"]
    restore()
    if place == "file":
        ledger.broker.redis.delete(MARK_KEY)
    else:
        (ledger.fed.settings.home / MARK_FILE).write_text("damaged")
    ledger.sweeper = Sweeper(
        ledger.fed, ledger.clock.ticks
    )  # a restart: nothing is remembered in the process
    ledger.sweep()
    after = _page(ledger, ledger.submit(lab, 1)["group_id"])["epoch"]
    assert after != before


def test_what_happened_since_the_last_sweep_counts(
    ledger: Ledger, lab: FakeEndpoint, node: FakeNode, backup: Callable[[], Restore]
) -> None:
    """A service that is stopped remembers the state in which it stops."""
    ledger.sweep()
    restore = backup()
    group = ledger.submit(lab, 1)["group_id"]
    before = _page(ledger, group)["epoch"]
    ledger.sweeper.close()
    restore()
    ledger.sweeper = Sweeper(ledger.fed)
    ledger.sweep()
    assert _page(ledger, ledger.submit(lab, 1)["group_id"])["epoch"] != before


def test_a_cursor_from_the_future_starts_over(ledger: Ledger, lab: FakeEndpoint, node: FakeNode) -> None:
    """The loss of a few transactions may not be noticed by the mark."""
    group = ledger.submit(lab, 2)["group_id"]
    _run(ledger, node)
    page = _page(ledger, group)
    again = _page(ledger, group, {**page, "cursor": 7})
    assert len(again["results"]) == 2 and again["epoch"] != page["epoch"]
    assert _page(ledger, group, again)["results"] == []
    assert _page(ledger, group, again)["epoch"] == again["epoch"]
    assert _page(ledger, group, {**page, "cursor": 7, "epoch": None})["results"] == []


def test_nodes_continue_with_what_they_have(
    ledger: Ledger, lab: FakeEndpoint, node: FakeNode, backup: Callable[[], Restore]
) -> None:
    """Known bundles on a node continue, unknown bundles are counted, lost ones run again."""
    known = ledger.submit(lab, 1, max_attempts=1)
    node.take()
    node.beat()
    gone = ledger.submit(lab, 1)
    finished = lab.node("n2")
    finished.take()
    finished.beat()
    ledger.collect()
    ledger.sweep()
    restore = backup()
    finished.finish()
    unknown = ledger.submit(lab, 1)
    finished.take()
    finished.beat()
    ledger.collect()
    ledger.sweep()
    assert ledger.state(gone) == "succeeded"
    restore()
    ledger.sweep(after=1)
    assert ledger.state(gone) == "dispatched"
    finished.finish()  # a bundle that the ledger does not know
    for _ in range(4):
        for each in (node, finished):
            each.beat()
        ledger.collect()
        ledger.sweep(after=15)
    assert ledger.state(known) == "dispatched"
    node.finish()
    _run(ledger, finished)
    assert ledger.state(known) == ledger.state(gone) == "succeeded"
    assert ledger.task(gone["task_ids"][0])["attempt"] == 2
    assert ledger.states(unknown) == {}


def test_queued_bundles_of_the_other_state_are_removed(
    ledger: Ledger, lab: FakeEndpoint, node: FakeNode, backup: Callable[[], Restore]
) -> None:
    """Otherwise a call that was accepted before the backup and sent after it runs twice."""
    ledger.sweep()
    restore = backup()
    ledger.submit(lab, 1)
    assert lab.queued_calls() == 1
    ledger.sweep()
    queue = names.queue_key(lab.id)
    ledger.broker.redis.lpush(queue, b"garbage")
    restore()
    ledger.sweep()
    assert ledger.broker.redis.lrange(queue, 0, -1) == [b"garbage"]
    ledger.broker.redis.delete(queue)


def test_a_call_that_ran_since_the_backup_on_an_unknown_node_does_not_start_again(
    ledger: Ledger, lab: FakeEndpoint, backup: Callable[[], Restore]
) -> None:
    once, again = ledger.submit(lab, 1, max_attempts=1), ledger.submit(lab, 1, max_attempts=2)
    ledger.sweep()
    restore = backup()
    new = lab.node("n9")
    _run(ledger, new)
    assert ledger.state(once) == ledger.state(again) == "succeeded"
    restore()
    ledger.sweep()
    _run(ledger, new)
    _run(ledger, new)
    assert ledger.state(once) == "failed"
    assert ledger.task(once["task_ids"][0])["code"] == "WORKER_LOST"
    assert ledger.state(again) == "succeeded"
    assert ledger.task(again["task_ids"][0])["attempt"] == 2


def test_the_keys_of_a_broker_that_was_restored_with_the_ledger_are_removed(
    ledger: Ledger, lab: FakeEndpoint, node: FakeNode, backup: Callable[[], Restore]
) -> None:
    ledger.sweep()
    restore = backup()
    ledger.submit(lab, 1)
    ledger.sweep()
    ledger.broker.redis.set(names.applied_key(lab.id), "17")
    ledger.broker.redis.set(broker_accounts.RUN_KEY, "another process")
    restore()
    ledger.sweep()
    assert not ledger.broker.redis.exists(names.applied_key(lab.id))
