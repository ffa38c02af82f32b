"""When the reports of an endpoint count as applied."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from federation.services.liveness import Liveness


def _liveness(*progress: tuple[int, int]) -> Any:
    """A function that asks once more, while the broker answers with the next progress: (taken, unread)."""
    answers = iter(progress)
    lists = SimpleNamespace(progress=lambda endpoint_id: next(answers))
    fed: Any = SimpleNamespace(broker=SimpleNamespace(report_lists=lists))
    liveness = Liveness(fed)
    return lambda endpoint_id="lab": liveness.reports_are_applied(endpoint_id)


def test_without_unread_reports_all_are_applied() -> None:
    ask = _liveness((0, 0), (7, 0))
    assert ask() and ask()


def test_reports_that_were_unread_are_awaited_and_later_ones_are_not() -> None:
    ask = _liveness((10, 3), (11, 3), (12, 9), (13, 9))
    assert [ask() for _ in range(4)] == [False, False, False, True]


def test_an_empty_list_ends_the_wait_whatever_was_counted() -> None:
    ask = _liveness((10, 3), (13, 0), (13, 1))
    assert [ask() for _ in range(3)] == [False, True, False], "the next backlog is another one"


def test_a_count_that_starts_again_is_a_new_backlog() -> None:
    """The broker lost its data."""
    ask = _liveness((10, 3), (1, 2), (2, 8), (3, 8))
    assert [ask() for _ in range(4)] == [False, False, False, True]


def test_endpoints_have_backlogs_of_their_own() -> None:
    ask = _liveness((10, 3), (0, 2), (13, 1), (1, 9), (2, 9))
    assert [ask(each) for each in ("lab", "other", "lab", "other", "other")] == [
        False,
        False,
        True,
        False,
        True,
    ]
