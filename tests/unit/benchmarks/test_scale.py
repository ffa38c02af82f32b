"""Bags that are checked, and the tables of works with cases."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.goals import goal_tables
from benchmarks.scale import bag
from benchmarks.scale.bag import Bag
from benchmarks.scale.fairness import summary
from benchmarks.tables import work_tables
from umbel.serialize import dump_result, load_call


class Echo:
    """A client whose calls end at once. ``spoil`` changes the rows of results."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.submissions: list[int] = []

    def submit(self, function: str, endpoint: str, payloads: list[bytes], **_: Any) -> None:
        self.submissions.append(len(payloads))
        for payload in payloads:
            (value,), _kwargs = load_call(payload)
            self.rows.append({"state": "succeeded", "result": dump_result(value)})

    def group_results(self, group: str, after: int, wait: float) -> dict[str, Any]:
        rows = self.rows[after : after + 1000]
        return {"results": rows, "cursor": after + len(rows)}

    def __enter__(self) -> Echo:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def _push(monkeypatch: pytest.MonkeyPatch, client: Any, count: int, **how: Any) -> float:
    monkeypatch.setattr(bag, "client_of", lambda client: client)
    return bag.push(client, Bag("f", "e", count, **how))


def test_a_bag_goes_in_the_largest_submissions(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Echo()
    assert _push(monkeypatch, client, 25_000, ahead=10_000) > 0
    assert client.submissions == [10_000, 10_000, 5_000]


@pytest.mark.parametrize(
    "row", [{"state": "succeeded", "result": dump_result(1)}, {"state": "lost", "code": "X", "message": "m"}]
)
def test_a_result_that_is_wrong_or_there_twice_is_an_error(
    monkeypatch: pytest.MonkeyPatch, row: dict[str, Any]
) -> None:
    client = Echo()
    client.rows.append(row)
    with pytest.raises(RuntimeError):
        _push(monkeypatch, client, 10)


def test_an_error_while_submitting_ends_the_bag(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Echo()

    def refuse(*_: Any, **__: Any) -> None:
        raise ValueError("refused")

    monkeypatch.setattr(client, "submit", refuse)
    with pytest.raises(ValueError, match="refused"):
        _push(monkeypatch, client, 10)


def test_asummary_names_the_slowest() -> None:
    assert summary([1.0, 2.0, 3.0, 100.0]) == {"calls": 4, "p50_ms": 2.5, "p95_ms": 100.0, "max_ms": 100.0}
    assert summary([float(number) for number in range(1, 101)])["p95_ms"] == 95.0


def _case(users: int, p50: float, bulk: float, kind: str = "same user") -> dict[str, Any]:
    values = {"p50_ms": 10.0, "p50_ratio": p50, "p95_ratio": 1.0, "bulk_ratio": bulk}
    rest = {"peer": "umbel", "round": 1, "n": 100, "others": 0.0, "kind": kind}
    return {"work": "W17", "case": f"{kind}, {users} users", **rest, **values}


def test_each_case_has_a_line_and_the_worst_one_counts() -> None:
    records = [_case(1, 1.5, 0.9), _case(3, 2.5, 0.7), _case(1, 1.2, 0.95, "other endpoint")]
    (table,) = work_tables(records)
    assert [line[0] for line in table.lines] == [
        "umbel: same user, 1 users",
        "umbel: same user, 3 users",
        "umbel: other endpoint, 1 users",
    ]
    (goals,) = goal_tables(records)
    found = {line[0]: line[2:] for line in goals.lines}
    assert found["W17: lone calls, same user, p50, × idle"] == ["2.5", "MISSED"]
    assert found["W17: lone calls, other endpoint, p50, × idle"] == ["1.2", "met"]
    assert found["W17: rate of the bags, × without lone calls"] == ["0.7", "MISSED"]


def test_calls_that_were_executed_again_or_never_miss_the_goal() -> None:
    record = {"peer": "umbel", "work": "W16", "round": 1, "n": 10, "others": 0.0, "again": 0, "missing": 2}
    found = {line[0]: line[3] for line in goal_tables([{**record, "peak_mb": []}])[0].lines}
    assert found["W16: calls executed again or not at all"] == "MISSED"
    found = {line[0]: line[3] for line in goal_tables([{**record, "peak_mb": [], "missing": 0}])[0].lines}
    assert found["W16: calls executed again or not at all"] == "met"
