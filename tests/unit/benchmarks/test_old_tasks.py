"""A ledger that is given a past looks as if it had lived through it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from benchmarks import old_tasks
from tests.support.ledger import open_ledger


def test_old_tasks_are_like_real_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(old_tasks, "PER_GROUP", 40)
    with open_ledger(tmp_path) as ledger:
        _take_away_guards(tmp_path / "ledger.sqlite")
        endpoint = ledger.endpoint()
        node = endpoint.node()
        answer = ledger.submit(endpoint, 3)
        ledger.collect()
        while node.take():
            node.finish()
            ledger.collect()
        assert ledger.state(answer) == "succeeded"
        old_tasks.add(tmp_path / "ledger.sqlite", 100)
        # at the end it is checked that all tables agree; here: the old are seen, the new ones unchanged
        page = ledger.results(answer["group_id"])
        assert len(page["results"]) == 3
        with closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as connection:
            count, groups = connection.execute(
                "SELECT count(*), count(DISTINCT group_no) FROM tasks WHERE state = 'succeeded'"
            ).fetchone()
            oldest, newest = connection.execute("SELECT min(finished), max(finished) FROM tasks").fetchone()
            old_group = connection.execute("SELECT id FROM groups ORDER BY no DESC LIMIT 1").fetchone()[0]
        assert (count, groups) == (103, 4)
        assert 0 < newest - oldest < 14 * 86400
        old = ledger.results(old_group)["results"]
        assert [row["completion"] for row in old] == list(range(1, 21))
        assert {row["result"] for row in old} <= {row["result"] for row in page["results"]}


def _take_away_guards(file: Path) -> None:
    """Old tasks do not come into being as others do: they have ended already."""
    with closing(sqlite3.connect(file)) as connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f'DROP TRIGGER "{name}"')
        connection.commit()


def test_a_million_old_tasks_are_younger_than_the_retention() -> None:
    assert 3600 + 1_000_000 * old_tasks.SPACING < 13 * 86400


def test_an_empty_ledger_has_nothing_to_copy(tmp_path: Path) -> None:
    with open_ledger(tmp_path):
        with pytest.raises(RuntimeError, match="no succeeded task"):
            old_tasks.add(tmp_path / "ledger.sqlite", 10)
