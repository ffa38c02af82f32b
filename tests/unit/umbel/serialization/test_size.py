"""A function that is too large is refused where it is submitted, with the name of the variable."""

from __future__ import annotations

import functools
import random
from typing import Any

import pytest

from umbel import Executor
from umbel.protocol.errors import TooLarge
from umbel.serialize import dump_function
from umbel.testing import LocalService

BIG = random.Random(1).randbytes(13_000_000)
SMALL = b"x" * 1000


def uses_big(number: int) -> int:
    return len(SMALL) + len(BIG) + number


def helper(number: int) -> int:
    return uses_big(number)


class Holder:
    def __init__(self) -> None:
        self.data = BIG

    def method(self) -> int:
        return len(self.data)


def default(data: bytes = BIG) -> int:
    return len(data)


def closure() -> Any:
    captured = BIG
    return lambda: (len(captured), unassigned)
    unassigned = 1


@pytest.mark.parametrize(
    ("fn", "function", "part"),
    [
        (uses_big, "uses_big", "variable 'BIG' of 'uses_big'"),
        (helper, "helper", "variable 'BIG' of 'uses_big'"),
        (Holder().method, "Holder.method", "the object of method 'Holder.method'"),
        (default, "default", "a default of 'default'"),
        (closure(), "lambda", "variable 'captured'"),
        (functools.partial(len, BIG), "len", "argument 0 of the partial"),
    ],
    ids=["global", "helper", "method", "default", "closure", "partial"],
)
def test_the_largest_variable_is_named(fn: Any, function: str, part: str) -> None:
    with pytest.raises(TooLarge) as caught:
        dump_function(fn)
    assert function in caught.value.message and part in caught.value.message
    assert caught.value.code == "PAYLOAD_TOO_LARGE"


def test_it_is_the_exception_of_the_future() -> None:
    with LocalService() as service, Executor("local", client=service.client()) as executor:
        with pytest.raises(TooLarge, match="BIG"):
            executor.submit(uses_big, 1).result(20)
