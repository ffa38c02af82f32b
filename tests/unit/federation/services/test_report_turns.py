"""Whose reports are read next, and how many: none starves, few reports do not wait for many."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from federation.broker.report_lists import READ_BYTES, READ_COUNT, READ_ENDPOINTS
from federation.services.report_turns import LEAST_BYTES, TURN_SECONDS, ReportTurns


def always(endpoint_id: str) -> bool:
    return True


def test_endpoints_take_turns() -> None:
    turns = ReportTurns()
    some = [f"e{number}" for number in range(READ_ENDPOINTS + 3)]
    turns.add(some)
    assert len(turns) == len(some) and "e0" in turns
    refused = {"e1"}
    first, _ = turns.take(lambda each: each not in refused)
    assert first == ["e0", *some[2 : READ_ENDPOINTS + 1]]
    assert turns.take(always)[0] == some[READ_ENDPOINTS + 1 :]
    assert (turns.take(always)[0], len(turns)) == ([], 0)


def test_short_lists_come_first_and_the_longest_waiting_one_comes_along() -> None:
    turns = ReportTurns()
    for each in ("big1", "big2"):
        turns.put_back(each)
    turns.add(["small", "big1"])
    chosen, (count, size) = turns.take(always)
    assert chosen == ["small", "big1"]
    assert (count, size) == (READ_COUNT // 2, int(4 * 1024 * 1024 * TURN_SECONDS) // 2)
    turns.put_back("big1")
    assert turns.take(always)[0] == ["big2", "big1"], "no endpoint is read twice in a turn"


def test_a_turn_takes_as_long_as_it_may() -> None:
    turns = ReportTurns()
    for _ in range(20):
        turns.add(["e"])
        turns.record(100_000, 0.1)
    turns.record(100, 5.0)  # says nothing about bytes
    _, (_, size) = turns.take(always)
    assert abs(size - 1_000_000 * TURN_SECONDS) < 100
    for seconds, expected in ((1e9, LEAST_BYTES), (0.0, READ_BYTES)):
        for _ in range(60):
            turns.record(READ_BYTES, seconds)
        turns.add(["e"])
        assert turns.take(always)[1] == (READ_COUNT, expected)


@settings(max_examples=100, deadline=None)
@given(
    long=st.sets(st.integers(0, 40), max_size=40),
    arrivals=st.lists(st.sets(st.integers(0, 60), max_size=40), min_size=60, max_size=60),
)
def test_no_endpoint_starves(long: set[int], arrivals: list[set[int]]) -> None:
    """Long lists are never read to their end; every one is read in at most as many turns as there are."""
    turns = ReportTurns()
    for each in sorted(long):
        turns.put_back(str(each))
    last = {str(each): 0 for each in long}
    for number, arrived in enumerate(arrivals, 1):
        turns.add(map(str, sorted(arrived)))
        chosen, _ = turns.take(always)
        assert len(chosen) == len(set(chosen)) <= READ_ENDPOINTS
        for each in chosen:
            if each in last:
                assert number - last[each] <= len(last)
                last[each] = number
                turns.put_back(each)
