"""Rejected batches are kept for the exit, within limits, until the program knows of a failure."""

from __future__ import annotations

from typing import Any

import pytest

from umbel.api.options import Options
from umbel.serialization.codec import FunctionBody
from umbel.submit.calls import Batch, Call, Part
from umbel.submit.ending import Rejects


class Future:
    observed = False


def batch(calls: int, size: int = 0) -> Batch:
    futures: list[Any] = [Future() for _ in range(calls)]
    part = Part(FunctionBody(b"", "f", None, ""), [Call(bytes(size), each) for each in futures])
    return Batch(Options(), [part])


@pytest.mark.parametrize(("calls", "size"), [(4, 0), (1, 40)])
def test_the_oldest_batches_are_dropped_above_a_limit(calls: int, size: int) -> None:
    rejects: Rejects[str] = Rejects(10, 100)
    batches = [batch(calls, size) for _ in range(5)]
    for each in batches:
        rejects.add("s", [each])
    assert rejects.of("s") == batches[-2:]
    large = batch(11, 11)
    rejects.add("s", [large])
    assert rejects.of("s") == [large]


def test_batches_within_the_limits_are_kept() -> None:
    rejects: Rejects[str] = Rejects(10, 100)
    batches = [batch(5, 10), batch(5, 10)]
    rejects.add("s", batches)
    assert rejects.of("s") == batches


def test_a_session_has_its_own_batches_until_a_future_is_observed() -> None:
    rejects: Rejects[str] = Rejects(10, 100)
    first, second = batch(2), batch(1)
    rejects.add("a", [first])
    rejects.add("b", [second])
    assert rejects.sessions() == {"a", "b"}
    first.futures[1].observed = True
    assert (rejects.of("a"), rejects.of("b")) == ([], [second])
    rejects.clear()
    assert rejects.sessions() == set()
