"""Which outcomes share a report, and what replaces those that cannot be written."""

from __future__ import annotations

import pytest

from endpoint_worker.reporting import batching
from tests.unit.endpoint_worker.reporting.service import outcome
from umbel.protocol.messages import Outcome, Status
from umbel.protocol.records import Items, Log

#: Of 50 bytes each.
LOG, ITEMS = Log(bytes(20), bytes(30), 1000), Items(0, [bytes(20), bytes(30)])


def shares(sizes: list[int], log: Log | None = None, items: Items | None = None) -> list[int]:
    """How many outcomes each report has, for payloads of these sizes."""
    outcomes: list[Outcome] = [outcome("t", bytes(size))._replace(log=log, items=items) for size in sizes]
    return [len(report["b"]) for report in batching.divide([("b", outcomes)])]


def test_a_report_has_a_limited_number_of_outcomes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "MAX_OUTCOMES", 8)
    assert shares([0] * 10) == [4, 4, 2]


def test_bundles_share_a_report_and_keep_their_order() -> None:
    found = batching.divide([("a", [outcome("t1")]), ("b", [outcome("t2")]), ("a", [outcome("t3")])])
    assert [{bundle: [o.task_id for o in rows] for bundle, rows in report.items()} for report in found] == [
        {"a": ["t1", "t3"], "b": ["t2"]}
    ]
    assert batching.divide([]) == []


def test_payloads_logs_and_items_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "REPORT_BYTES", 100)
    assert shares([50] * 4) == [2, 2]
    assert shares([0] * 4, log=LOG) == [2, 2]
    assert shares([0] * 4, items=ITEMS) == [2, 2]
    assert shares([25] * 4, log=LOG) == [2, 2]
    assert shares([0] * 4) == [4]


def test_only_outcomes_that_end_a_call_are_replaced_by_lost_ones() -> None:
    running = outcome("t1")._replace(status=Status.RUNNING)
    replaced = batching.lost({"b": [running, outcome("t2")._replace(attempt=3)]}, ValueError("a defect"))
    assert [(o.task_id, o.attempt, o.status) for o in replaced["b"]] == [("t2", 3, Status.LOST)]
    assert "a defect" in str(replaced["b"][0].message)


def test_dates_are_corrected_where_there_is_one() -> None:
    never = outcome("t2")._replace(started=0.0)
    moved = batching.shifted({"b": [outcome("t1")._replace(started=100.0), never]}, 5.0)
    assert [o.started for o in moved["b"]] == [105.0, 0.0]
