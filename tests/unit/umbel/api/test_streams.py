"""Reading a stream from whatever a service answers."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from concurrent.futures import TimeoutError
from typing import Any

import pytest

from umbel.api.streams import read_stream
from umbel.futures import UmbelFuture
from umbel.protocol.errors import StreamRestarted, TaskError
from umbel.serialize import dump_result
from umbel.submit.pending import Pending


class Script:
    """A source that answers what it was given, one page after another, and notes what it was asked."""

    def __init__(self, *pages: dict[str, Any]):
        self._pages: Iterator[dict[str, Any]] = iter(pages)
        self.asked: list[tuple[int, int | None]] = []

    def get_items(
        self,
        task_id: str,
        after: int = 0,
        *,
        run: int | None = None,
        wait: float = 0.0,
        patience: float | None = None,
    ) -> dict[str, Any]:
        assert 0.0 <= wait <= 30.0
        self.asked.append((after, run))
        return next(self._pages)


def page(
    cursor: int, *items: Any, run: int = 1, ended: bool = False, total: int | None = None
) -> dict[str, Any]:
    encoded = [base64.b64encode(dump_result(item)).decode() for item in items]
    return {"items": encoded, "cursor": cursor, "run": run, "ended": ended, "total": total}


def test_pages_are_read_to_the_end() -> None:
    script = Script(page(0, run=0), page(2, "a", None), page(2), page(3, "c"), page(3, ended=True, total=3))
    assert list(read_stream(script, "t-1", None)) == ["a", None, "c"]
    assert script.asked == [(0, None), (0, None), (2, 1), (2, 1), (3, 1)]


def test_a_restart_is_told_to_those_only_who_have_read_something() -> None:
    items = read_stream(Script(page(1, "a"), page(2, "A", "B", run=2)), "t-1", None)
    assert next(items) == "a"
    with pytest.raises(StreamRestarted) as caught:
        next(items)
    assert (caught.value.code, caught.value.task_id) == ("STREAM_RESTARTED", "t-1")
    fresh = Script(page(0, run=1), page(2, "A", "B", run=2), page(2, run=2, ended=True, total=2))
    assert list(read_stream(fresh, "t-1", None)) == ["A", "B"]
    # also when the next start has yielded nothing yet, or nothing at all
    items = read_stream(Script(page(1, "a"), page(0, run=2, ended=True, total=0)), "t-1", None)
    assert next(items) == "a"
    with pytest.raises(StreamRestarted):
        next(items)


def test_lost_items_are_told() -> None:
    items = read_stream(Script(page(1, "a"), page(1, ended=True, total=3)), "t-1", None)
    assert next(items) == "a"
    with pytest.raises(TaskError, match="1 of 3 .* t-1") as caught:
        next(items)
    assert (caught.value.code, caught.value.task_id) == ("STREAM_INCOMPLETE", "t-1")


def test_patience_ends() -> None:
    script = Script(page(1, "a"), *[page(1)] * 1000)
    items = read_stream(script, "t-1", 0.0)
    assert next(items) == "a"
    with pytest.raises(TimeoutError, match="t-1"):
        next(items)


def test_a_call_that_is_not_accepted_is_waited_for() -> None:
    pending = Pending()
    future = UmbelFuture(None, "g-1")  # type: ignore[arg-type]
    with pytest.raises(TimeoutError, match="accepted"):
        pending.wait_until_accepted(future, 0.05)
    future.task_id = "t-1"
    pending.wait_until_accepted(future, 0.0)
    future.task_id = None
    future.set_exception(ValueError())
    pending.wait_until_accepted(future, None)
