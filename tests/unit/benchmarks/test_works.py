"""The works: the same in every run, and what they must bring back."""

from __future__ import annotations

import importlib
from collections import Counter

import pytest

from benchmarks import __main__ as main
from benchmarks import functions, rounds, scale
from benchmarks.works import (
    ARRAY_BYTES,
    PASSES,
    SCALE,
    WORKS,
    are_equal,
    arguments,
    expected,
    ideal_seconds,
    sizes,
)


@pytest.mark.parametrize("work", sorted(WORKS))
def test_a_work_asks_for_what_its_function_returns(work: str) -> None:
    if work in ARRAY_BYTES:
        pytest.importorskip("numpy")
    items = [item if not isinstance(item, list) else [item[0], 0.0] for item in arguments(work, 7)]
    function = functions.BY_NAME[WORKS[work].function]
    assert are_equal(work, [function(item) for item in items], expected(work, items))
    assert are_equal(work, arguments(work, 7), arguments(work, 7))


@pytest.mark.parametrize("work", sorted(ARRAY_BYTES))
def test_arrays_have_the_size_of_their_work_and_are_all_different(work: str) -> None:
    pytest.importorskip("numpy")
    items = arguments(work, 3)
    assert {item.nbytes for item in items} == {ARRAY_BYTES[work]}
    assert are_equal(work, items, items) and not are_equal(work, items, items[:2])
    assert not are_equal(work, items, [items[0], items[2], items[1]])


def test_arrays_are_measured_with_the_peers_that_can_carry_them() -> None:
    works = ["W22small", "W22", "W22large"]
    turns = list(rounds.plan(main.parse(["--only", "W22"]).only, ["umbel", "celery", "dask"], 1))
    assert turns == [(1, "umbel", works), (1, "dask", works)]


@pytest.mark.parametrize("work", sorted(functions.EACH))
def test_calls_of_different_functions_return_the_items(work: str) -> None:
    items = arguments(work, 100)
    calls = list(functions.EACH[work](items))
    assert [fn(*args) for fn, args in calls] == expected(work, items)
    assert len({id(fn) for fn, _ in calls}) == (functions.FUNCTIONS if work == "W21" else 100)


def test_large_arguments_are_all_different() -> None:
    items = arguments("W3", 50)
    assert {len(item) for item in items} == {100_000} and len(set(items)) == 50


def test_the_mixed_bag_is_what_it_is_called() -> None:
    (n,) = WORKS["W6"].sizes
    items = arguments("W6", n)
    assert Counter(seconds for _, seconds in items) == {0.0: 1000, 0.05: 200, 2.0: 20}
    assert ideal_seconds(items) == pytest.approx(25.0)
    # interleaved: a long one in every sixty-one
    assert all(any(seconds == 2.0 for _, seconds in items[k : k + 61]) for k in range(0, n, 61))


def test_every_work_has_its_place_in_a_pass() -> None:
    # W8 needs no session, W9 has its own: see benchmarks/starts.py and benchmarks/elastic; W16long is a part
    assert sorted(work for together in PASSES for work in together) == sorted(
        set(WORKS) - {"W8", "W9", "W16long"}
    )


@pytest.mark.parametrize("work", SCALE)
def test_a_work_with_simulated_nodes_has_a_session_of_its_own(work: str) -> None:
    assert (work,) in PASSES
    assert callable(importlib.import_module(scale.RUNS[work]).run)
    assert work not in main.parse([]).only


def test_a_quick_look_is_a_tenth() -> None:
    assert sizes(WORKS["W1"], quick=True) == [200, 1000]
    assert sizes(WORKS["W1"], quick=False) == [2000, 10_000]


def test_rounds_take_turns_and_spare_the_peers_what_takes_them_minutes() -> None:
    turns = list(rounds.plan(["W1", "W2", "W5", "W7"], ["umbel", "celery"], 2))
    assert turns == [
        (1, "umbel", ["W1", "W2"]),
        (1, "celery", ["W1", "W2"]),
        (1, "umbel", ["W5"]),
        (1, "celery", ["W5"]),
        (1, "umbel", ["W7"]),
        (2, "umbel", ["W1", "W2"]),
        (2, "celery", ["W1", "W2"]),
        (2, "umbel", ["W5"]),
        (2, "umbel", ["W7"]),
    ]
