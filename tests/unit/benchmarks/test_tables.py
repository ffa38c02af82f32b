"""From records to tables and verdicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks import publish
from benchmarks.goals import GOALS, goal_tables
from benchmarks.report import as_rst, as_text, render
from benchmarks.tables import Table, by_round, cell, ratios, work_tables


def _record(peer: str, work: str, number: int, n: int, **values: Any) -> dict[str, Any]:
    rest = {"others": 0.0, "cpu_ms_per_task": 0.1, "cpu_ms_per_task_by_process": {}}
    return {"peer": peer, "work": work, "round": number, "n": n, **rest, **values}


RATES = [
    _record("umbel", "W1", 1, 10_000, tasks_per_s=9000.0),
    _record("celery", "W1", 1, 10_000, tasks_per_s=900.0),
    _record("umbel", "W1", 2, 10_000, tasks_per_s=12_000.0),
    _record("celery", "W1", 2, 10_000, tasks_per_s=1000.0),
    _record("umbel", "W1", 3, 10_000, tasks_per_s=5000.0),
    _record("celery", "W1", 3, 10_000, tasks_per_s=1000.0, others=0.5),
]


def test_ratios_are_taken_round_by_round() -> None:
    umbel = by_round(RATES, "umbel", "W1", 10_000, "tasks_per_s")
    celery = by_round(RATES, "celery", "W1", 10_000, "tasks_per_s")
    assert ratios(umbel, celery) == [10.0, 12.0, 5.0]
    assert ratios(umbel, {1: 1000.0}) == [9.0, 12.0, 5.0]
    assert ratios(umbel, {}) == []


def test_several_runs_of_a_round_count_as_their_median() -> None:
    records = [_record("umbel", "W7", 1, 100, us_per_task=value) for value in (1.0, 50.0, 2.0)]
    assert by_round(records, "umbel", "W7", 100, "us_per_task") == {1: 2.0}


def test_a_cell_shows_the_median_and_the_extremes() -> None:
    assert cell([1234.5, 900.0, 2000.0]) == "1,234 (900 - 2,000)"
    assert cell([0.12345]) == "0.123"
    assert cell([]) == ""


def test_a_table_marks_who_was_disturbed() -> None:
    (table,) = work_tables(RATES)
    assert table.title == "W1: 10,000 no-ops"
    assert table.lines[0][:3] == ["umbel", "9,000 (5,000 - 12,000)", "10 (5 - 12)"]
    assert table.lines[1][0] == "~celery"


def test_a_goal_is_met_or_missed_by_the_median() -> None:
    (table,) = goal_tables(RATES)
    assert [line[1:] for line in table.lines] == [["≥ 10", "10", "met"]]
    slower = [{**record, "tasks_per_s": 1.0} if record["peer"] == "umbel" else record for record in RATES]
    assert goal_tables(slower)[0].lines[0][3] == "MISSED"
    assert goal_tables([]) == []


def _first(peer: str, *seconds: float) -> list[dict[str, Any]]:
    return [_record(peer, "W9", number, 1, first_s=value) for number, value in enumerate(seconds, 1)]


def test_the_first_result_is_judged_by_the_faster_peer() -> None:
    records = [
        *_first("umbel", 4.0, 9.0, 4.2),
        *_first("parsl", 9.0),
        *_first("dask-jobqueue", 3.3, 3.1, 3.5),
    ]
    (table,) = goal_tables(records)
    assert table.lines == [["W9: first result, seconds after the faster peer's", "≤ 1", "0.9", "met"]]
    assert goal_tables(_first("umbel", 4.0)) == [], "alone there is nothing to judge it by"


def test_memory_is_judged_by_the_largest_process_of_the_service() -> None:
    peaks = [["client", 900.0], ["web", 410.0], ["sweep", 70.0]]
    (table,) = goal_tables([_record("umbel", "W5", 1, 100_000, peak_mb=peaks, tasks_per_s=1.0)])
    assert table.lines == [["W5: largest process of the service, MiB", "≤ 400", "410", "MISSED"]]


def test_every_goal_has_a_direction() -> None:
    assert all((goal.minimum is None) != (goal.maximum is None) for goal in GOALS)


def test_what_could_not_be_measured_is_said() -> None:
    text = render([*RATES, {"peer": "dask", "work": "error", "round": 2, "error": "it broke"}], as_text)
    assert "Not measured" in text and "dask, round 2: it broke" in text


def test_tables_for_people_and_for_the_manual() -> None:
    table = Table("Title", ("a", "bb"), [("ccc", "d")])
    assert as_text(table) == "Title\n  a    bb\n  ccc  d"
    assert as_rst(table) == (
        ".. list-table:: Title\n   :header-rows: 1\n\n   * - a\n     - bb\n   * - ccc\n     - d\n"
    )


def test_records_can_be_read_again(tmp_path: Path) -> None:
    data = {"machine": {"processors": 2}, "settings": {"rounds": 3}, "records": RATES}
    publish.write_records(tmp_path / "new" / "records.json", data)
    assert publish.read_records(tmp_path / "new" / "records.json") == data


def test_the_manual_shows_the_reference_records() -> None:
    """Made again by ``python -m benchmarks.publish``."""
    shown = publish.FIGURES.read_text(encoding="utf-8")
    assert shown == publish.figures(publish.read_records(publish.REFERENCE))
