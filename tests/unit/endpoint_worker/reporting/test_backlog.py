"""The order of waiting reports: oldest first, small ones first, and the order of each bundle is kept."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from endpoint_worker.reporting import backlog
from endpoint_worker.reporting.backlog import Backlog
from endpoint_worker.reporting.spool import Entry

LARGE = 100


def entry(name: str, size: int, *bundles: str) -> Entry:
    return Entry(Path(name), size, None, bundles)


def is_large(size: int) -> bool:
    return size >= LARGE


def order(waiting: Backlog) -> list[str]:
    names = []
    while (found := waiting.next(is_large)) is not None:
        names.append(found.path.name)
        waiting.remove(found)
    return names


def filled(*entries: Entry) -> Backlog:
    waiting = Backlog()
    for each in entries:
        waiting.append(each)
    return waiting


def test_small_reports_pass_large_ones_of_other_bundles_only() -> None:
    waiting = filled(
        entry("large-1", LARGE, "a", "b"),
        entry("small-b", 1, "b"),
        entry("small-c", 1, "c"),
        entry("large-2", LARGE, "d"),
        entry("small-none", 1),
        entry("small-d", 1, "d"),
    )
    assert order(waiting) == ["small-c", "small-none", "large-1", "small-b", "large-2", "small-d"]


def test_a_report_behind_a_blocked_one_of_its_bundle_waits_too() -> None:
    waiting = filled(entry("large", LARGE, "a"), entry("second", 1, "a", "b"), entry("third", 1, "b"))
    assert order(waiting) == ["large", "second", "third"]


def test_a_postponed_report_holds_back_its_own_bundles_only(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(backlog, "time", SimpleNamespace(monotonic=lambda: now[0]))
    first, second, other = entry("first", 1, "a"), entry("second", 1, "a"), entry("other", 1, "b")
    waiting = filled(first, second, other)
    waiting.postpone(first, 60.0)
    assert order(waiting) == ["other"]
    assert len(waiting) == 2
    now[0] = 159.9
    assert waiting.next(is_large) is None
    now[0] = 160.0
    assert order(waiting) == ["first", "second"]
    assert len(waiting) == 0
