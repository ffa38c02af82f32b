"""Unsent calls: whose turn it is, how large a batch becomes, and what is left."""

from __future__ import annotations

from typing import Any

import pytest

from umbel.api.options import Options
from umbel.serialization.codec import FunctionBody
from umbel.submit import calls
from umbel.submit.calls import Batch, Call, CallQueue

OPTIONS = Options()
SQUARE, CUBE = (FunctionBody(name.encode(), name, None, "") for name in ("square", "cube"))


def call(size: int = 0) -> Call:
    future: Any = object()
    return Call(bytes(size), future)


def taken(batch: Batch | None) -> tuple[str, int]:
    assert batch is not None
    return batch.function.name, len(batch.calls)


def test_functions_take_turns_until_all_are_sent() -> None:
    queue = CallQueue()
    for _ in range(5):
        queue.put(SQUARE, OPTIONS, call())
    for _ in range(3):
        queue.put(CUBE, OPTIONS, call())
    turns = [taken(queue.take(2)) for _ in range(5)]
    assert turns == [("square", 2), ("cube", 2), ("square", 2), ("cube", 1), ("square", 1)]
    assert queue.take(2) is None


def test_calls_with_other_options_are_another_batch() -> None:
    queue = CallQueue()
    other = Options(priority=3)
    queue.put(SQUARE, OPTIONS, call())
    queue.put(SQUARE, other, call())
    assert [batch.options for batch in queue.take_all()] == [OPTIONS, other]


def test_calls_of_a_function_keep_their_order() -> None:
    queue = CallQueue()
    put = [call() for _ in range(5)]
    for each in put:
        queue.put(SQUARE, OPTIONS, each)
    assert [each for batch in iter(lambda: queue.take(2), None) for each in batch.calls] == put


def test_the_number_and_the_bytes_of_unsent_calls_are_counted() -> None:
    queue = CallQueue()
    assert (queue.count, queue.size) == (0, 0)
    for size in (5, 7, 11):
        queue.put(SQUARE, OPTIONS, call(size))
    assert (queue.count, queue.size) == (3, 23)
    queue.take(2)
    assert (queue.count, queue.size) == (1, 11)
    queue.take_all()
    assert (queue.count, queue.size) == (0, 0)


@pytest.mark.parametrize(("more", "expected"), [(0, 2), (1, 1)])
def test_a_batch_is_filled_up_to_its_largest_size(
    monkeypatch: pytest.MonkeyPatch, more: int, expected: int
) -> None:
    monkeypatch.setattr(calls, "BATCH_BYTES", 100)
    queue = CallQueue()
    queue.put(SQUARE, OPTIONS, call(50 - calls.CALL_OVERHEAD))
    queue.put(SQUARE, OPTIONS, call(50 - calls.CALL_OVERHEAD + more))
    assert taken(queue.take()) == ("square", expected)


def test_one_larger_call_makes_a_batch_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "BATCH_BYTES", 100)
    queue = CallQueue()
    for size in (1, 200, 1):
        queue.put(SQUARE, OPTIONS, call(size))
    assert [taken(queue.take()) for _ in range(3)] == [("square", 1)] * 3
    assert queue.take() is None
