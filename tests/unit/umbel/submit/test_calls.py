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


def taken(batch: Batch | None) -> list[tuple[str, int]]:
    assert batch is not None
    return [(part.function.name, len(part.calls)) for part in batch.parts]


def test_functions_take_turns_until_all_are_sent() -> None:
    queue = CallQueue()
    for _ in range(5):
        queue.put(SQUARE, OPTIONS, call())
    for _ in range(3):
        queue.put(CUBE, OPTIONS, call())
    turns = [taken(queue.take(1)) for _ in range(2)]
    assert turns == [[("square", 1)], [("cube", 1)]]
    assert taken(queue.take(2)) == [("square", 1), ("cube", 1)]
    assert taken(queue.take(3)) == [("square", 2), ("cube", 1)]
    assert taken(queue.take(9)) == [("square", 1)]
    assert queue.take(2) is None


def test_a_function_with_few_calls_leaves_its_share_to_others() -> None:
    queue = CallQueue()
    for function, count in ((SQUARE, 2), (CUBE, 50)):
        for _ in range(count):
            queue.put(function, OPTIONS, call())
    assert taken(queue.take(20)) == [("square", 2), ("cube", 18)]


def test_many_functions_share_batches() -> None:
    queue = CallQueue()
    functions = [FunctionBody(b"", str(number), None, "") for number in range(5)]
    for function in functions * 2:
        queue.put(function, OPTIONS, call())
    batches = [taken(queue.take(functions=3)) for _ in range(2)]
    assert batches == [[("0", 2), ("1", 2), ("2", 2)], [("3", 2), ("4", 2)]]


def test_what_is_put_back_comes_first_and_as_it_was() -> None:
    queue = CallQueue()
    queue.put(SQUARE, OPTIONS, call(3))
    queue.put(CUBE, Options(), call(4))
    batch = queue.take()
    assert batch is not None and (queue.count, queue.size) == (0, 0)
    queue.put(SQUARE, OPTIONS, call(5))
    queue.put_back(batch.split())
    assert (queue.count, queue.size) == (3, 12)
    assert [taken(queue.take()) for _ in range(3)] == [[("square", 1)], [("cube", 1)], [("square", 1)]]
    assert (queue.count, queue.size) == (0, 0)


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
    assert taken(queue.take()) == [("square", expected)]


def test_one_larger_call_makes_a_batch_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "BATCH_BYTES", 100)
    queue = CallQueue()
    for size in (1, 200, 1):
        queue.put(SQUARE, OPTIONS, call(size))
    assert [taken(queue.take()) for _ in range(3)] == [[("square", 1)]] * 3
    assert queue.take() is None
