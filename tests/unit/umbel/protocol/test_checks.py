"""Checks of values that another party has sent."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbel.protocol import checks

_MANY = [
    (
        checks.identifiers,
        checks.identifier,
        ["a", "b:c.1-2_3"],
        [None, 1, b"a", "", "a" * 65, "a b", "\u00e4", "a\n"],
    ),
    (
        checks.integers,
        checks.integer,
        [0, 1, checks.MAX_INTEGER],
        [None, "1", 1.0, True, -1, checks.MAX_INTEGER + 1],
    ),
    (
        checks.all_seconds,
        checks.seconds,
        [0.0, 1.5, 3, -2.0, -0.0, checks.MAX_SECONDS],
        [None, "1", True, math.nan, math.inf, -math.inf, 1e13, 10**400],
    ),
]


@pytest.mark.parametrize(
    ("many", "one", "good", "bad"), _MANY, ids=lambda value: getattr(value, "__name__", "")
)
@given(data=st.data())
def test_many_values_are_checked_as_one_is(
    many: Callable[[Sequence[Any]], Sequence[Any]],
    one: Callable[[Any], Any],
    good: list[Any],
    bad: list[Any],
    data: st.DataObject,
) -> None:
    values = data.draw(st.lists(st.sampled_from(good), max_size=5))
    assert list(many(values)) == [one(value) for value in values]
    assert [type(value) for value in many(values)] == [type(one(value)) for value in values]
    values.insert(data.draw(st.integers(0, len(values))), data.draw(st.sampled_from(bad)))
    with pytest.raises(ValueError):
        many(values)
