"""Running totals equal what they count after every kind of change, and wrong ones are corrected."""

from __future__ import annotations

import logging

import pytest
from sqlalchemy import func, select, update

from federation.db.tables import loads
from federation.ledger import totals
from federation.ledger.totals import TotalsCheck
from federation.registry import endpoints
from tests.support.endpoint import FakeEndpoint, FakeNode, outcome
from tests.support.ledger import Ledger
from umbel.protocol.messages import Status


def _queue(ledger: Ledger, lab: FakeEndpoint) -> dict[str, int]:
    queue: dict[str, int] = endpoints.get(ledger.fed, ledger.me, lab.id)["queue"]
    return queue


def test_the_queue_of_an_endpoint_is_counted(ledger: Ledger, lab: FakeEndpoint, node: FakeNode) -> None:
    ledger.submit(lab, 100)
    sent = sum(item.calls for item in ledger.broker.queues[lab.id])
    assert _queue(ledger, lab) == {"queued": 100 - sent, "dispatched": sent, "running": 0}
    first, second, *_ = node.take()
    # a report may start a call and end it; a call that starts twice counts once
    calls = first.calls
    started = [outcome(first, call, Status.RUNNING) for call in calls]
    node.report({first.id: [*started, started[0], outcome(first, calls[0])]})
    node.report({second.id: [outcome(second, second.calls[0], Status.RUNNING)]})
    ledger.collect()
    assert _queue(ledger, lab)["running"] == len(calls)
    ledger.check()
    node.report({second.id: [outcome(second, call, Status.RETURNED) for call in second.calls]})
    node.report({first.id: [outcome(first, call, Status.LOST) for call in calls[1:]]})
    ledger.collect()
    assert _queue(ledger, lab)["running"] == 0
    ledger.check()
    node.restart()
    ledger.collect()
    ledger.check()


def test_wrong_totals_are_corrected(
    ledger: Ledger, lab: FakeEndpoint, caplog: pytest.LogCaptureFixture
) -> None:
    ledger.endpoint("other")
    ledger.submit(lab, 10, cores=1)
    with ledger.fed.database.write() as connection:
        wrong = {"live": loads.c.live + 1, "sent": loads.c.sent + 2, "running": 3, "occupied": 4}
        connection.execute(update(loads).values(wrong))
    check = TotalsCheck(ledger.fed)
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            check.check_next()
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    with ledger.fed.database.read() as connection:
        assert totals.differences(connection, lab.no) == {}
    ledger.check()


def test_the_sweeper_corrects_totals(ledger: Ledger, lab: FakeEndpoint) -> None:
    ledger.submit(lab, 10)
    with ledger.fed.database.write() as connection:
        connection.execute(update(loads).values(occupied=1_000_000))
    for _ in range(2):
        ledger.sweep()
    ledger.check()


def test_loads_of_idle_users_are_deleted_when_they_are_many(
    ledger: Ledger, lab: FakeEndpoint, node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.submit(lab, 1)
    assert totals.delete_idle(ledger.fed) == 0
    node.take()
    node.finish()
    ledger.collect()
    assert totals.delete_idle(ledger.fed) == 0
    monkeypatch.setattr(totals, "IDLE_ROWS", 0)
    assert totals.delete_idle(ledger.fed) == 1
    with ledger.fed.database.read() as connection:
        assert connection.execute(select(func.count()).select_from(loads)).scalar_one() == 0
