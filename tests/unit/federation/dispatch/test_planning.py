"""Properties of the dispatch decision, over queues and situations that hypothesis makes up."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import replace
from itertools import groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.dispatch.planning import LONG_SECONDS, UNKNOWN_CALLS, Plan, QueuedCall, Situation, decide
from umbel.protocol.limits import BUNDLE_BODY_BYTES, MAX_CALLS_PER_BUNDLE

Queues = list[tuple[int, list[QueuedCall]]]

bounded = settings(max_examples=60, deadline=None)


@st.composite
def all_queues(draw: st.DrawFn) -> Queues:
    """Up to five users; their calls come in runs of one kind, priority and size, by priority and age."""
    queues: Queues = []
    no = 0
    for user in draw(st.lists(st.integers(1, 9), max_size=5, unique=True)):
        calls = []
        for _ in range(draw(st.integers(0, 5))):
            kind = draw(st.sampled_from("abc"))
            priority = draw(st.integers(-1, 1))
            size = draw(st.sampled_from([0, 100, BUNDLE_BODY_BYTES // 3, BUNDLE_BODY_BYTES + 1]))
            for _ in range(draw(st.sampled_from([1, 2, 7, 300]))):
                no += 1
                calls.append(QueuedCall(no, priority, kind, size))
        queues.append((user, sorted(calls, key=lambda call: (-call.priority, call.no))))
    return queues


run_times = st.sampled_from([0.0, 1e-6, 0.001, 0.03, LONG_SECONDS, LONG_SECONDS + 0.1, 1e4])


@st.composite
def cases(draw: st.DrawFn) -> tuple[Queues, Situation]:
    queues = draw(all_queues())
    seen = sum(len(calls) for _, calls in queues)
    slots = draw(st.sampled_from([1, 2, 3, 8, 64]))
    largest = draw(st.integers(1, slots))
    cores = draw(st.dictionaries(st.sampled_from("abc"), st.integers(1, largest)))
    return queues, Situation(
        slots=slots,
        cores={kind: count for kind, count in cores.items() if count > 1},
        largest=largest,
        open=draw(st.integers(0, 30)),
        queued=seen + draw(st.sampled_from([0, 1, 5000])),
        seconds=draw(st.dictionaries(st.sampled_from("abc"), run_times)),
        window=draw(st.integers(1, 4)),
    )


def _left(queues: Queues, plans: Sequence[Plan]) -> dict[int, list[QueuedCall]]:
    """Each user's calls that were not planned, if any."""
    gone = {no for plan in plans for no in plan.nos}
    left = {user: [call for call in calls if call.no not in gone] for user, calls in queues}
    return {user: calls for user, calls in left.items() if calls}


def _occupied(now: Situation, plans: Sequence[Plan]) -> int:
    """Slots that the plans' bundles occupy."""
    return sum(now.cores.get(plan.kind, 1) for plan in plans)


def _by_no(queues: Queues) -> dict[int, tuple[int, QueuedCall]]:
    return {call.no: (user, call) for user, calls in queues for call in calls}


@bounded
@given(cases())
def test_no_call_is_doubled_or_changes_its_owner_or_kind(case: tuple[Queues, Situation]) -> None:
    queues, now = case
    plans = decide(queues, now)
    known = _by_no(queues)
    planned = [no for plan in plans for no in plan.nos]
    assert len(planned) == len(set(planned))
    for plan in plans:
        assert plan.nos
        assert {(known[no][0], known[no][1].kind) for no in plan.nos} == {(plan.user, plan.kind)}


@bounded
@given(cases())
def test_no_call_is_lost_over_many_refills(case: tuple[Queues, Situation]) -> None:
    """What is open ends before the next decision: then every decision makes progress until all are out."""
    queues, now = case
    out: Counter[int] = Counter()
    left = dict(queues)
    while any(left.values()):
        waiting = [(user, calls) for user, calls in left.items() if calls]
        plans = decide(waiting, replace(now, open=0, queued=sum(len(calls) for _, calls in waiting)))
        assert plans, "calls wait, nothing is open, and nothing goes out"
        out.update(no for plan in plans for no in plan.nos)
        left = _left(waiting, plans)
    assert out == Counter({call.no: 1 for _, calls in queues for call in calls})


@bounded
@given(cases())
def test_no_slot_is_idle_while_calls_wait(case: tuple[Queues, Situation]) -> None:
    queues, now = case
    plans = decide(queues, now)
    if _left(queues, plans):
        assert now.open + _occupied(now, plans) >= now.slots


@bounded
@given(cases())
def test_the_window_is_filled_and_never_exceeded(case: tuple[Queues, Situation]) -> None:
    queues, now = case
    plans = decide(queues, now)
    window = now.slots * now.window
    for before in range(len(plans)):
        assert now.open + _occupied(now, plans[:before]) < window, "only what goes out last may be too wide"
    left = _left(queues, plans)
    if left and not any(_is_long(now, call) for calls in left.values() for call in calls):
        assert now.open + _occupied(now, plans) >= window


@bounded
@given(cases())
def test_what_is_wide_is_not_overtaken_by_its_owners_younger_calls(case: tuple[Queues, Situation]) -> None:
    """Whatever goes out, a call of the same user and priority that was there before has gone out, too."""
    queues, now = case
    plans = decide(queues, now)
    known = _by_no(queues)
    for user, calls in _left(queues, plans).items():
        oldest = {call.priority: call for call in reversed(calls)}
        for plan in plans:
            if plan.user == user:
                first = known[plan.nos[0]][1]
                waits = oldest.get(first.priority)
                assert waits is None or first.no < waits.no


def _is_long(now: Situation, call: QueuedCall) -> bool:
    return now.seconds.get(call.kind, 0.0) > LONG_SECONDS


@bounded
@given(cases())
def test_long_kinds_do_not_pile_up_at_the_endpoint(case: tuple[Queues, Situation]) -> None:
    """Beside what the slots run, only an eighth as many long bundles lie there, each of one call."""
    queues, now = case
    plans = decide(queues, now)
    for before, plan in enumerate(plans):
        if now.seconds.get(plan.kind, 0.0) > LONG_SECONDS:
            assert now.open + _occupied(now, plans[:before]) < now.slots + math.ceil(now.slots / 8)
            assert len(plan.nos) == 1


@bounded
@given(cases())
def test_users_take_turns(case: tuple[Queues, Situation]) -> None:
    """Nobody with calls is passed over in a round, and each round keeps the order of turns."""
    queues, now = case
    plans = decide(queues, now)
    left = _left(queues, plans)
    turns = [user for user, _ in queues]
    counts = Counter(plan.user for plan in plans)
    for user in left:
        for other in turns:
            ahead = turns.index(other) < turns.index(user)
            assert counts[user] >= counts[other] - ahead
    order = [turns.index(plan.user) for plan in plans]
    rounds = 1 + sum(1 for a, b in zip(order, order[1:]) if b <= a)
    assert rounds == max(counts.values(), default=1)


@bounded
@given(cases())
def test_priorities_hold_within_a_user_and_age_within_a_kind(case: tuple[Queues, Situation]) -> None:
    queues, now = case
    plans = decide(queues, now)
    known = _by_no(queues)
    left = _left(queues, plans)
    for user, _ in queues:
        went = [known[no][1] for plan in plans if plan.user == user for no in plan.nos]
        priorities = [call.priority for call in went]
        assert priorities == sorted(priorities, reverse=True)
        if went and user in left:
            assert left[user][0].priority <= priorities[-1]
        for _, same in groupby(sorted(went, key=_place), key=_place):
            nos = [call.no for call in same]
            assert nos == sorted(nos)
        last = {_place(call): call.no for call in went}
        assert all(call.no > last.get(_place(call), 0) for call in left.get(user, []))


def _place(call: QueuedCall) -> tuple[int, str]:
    return call.priority, str(call.kind)


@bounded
@given(cases())
def test_bundles_are_bounded_in_bytes_calls_and_work(case: tuple[Queues, Situation]) -> None:
    queues, now = case
    known = _by_no(queues)
    for plan in decide(queues, now):
        count = len(plan.nos)
        if count == 1:
            continue
        assert sum(known[no][1].size for no in plan.nos) <= BUNDLE_BODY_BYTES
        seconds = now.seconds.get(plan.kind)
        assert count <= (UNKNOWN_CALLS if seconds is None else MAX_CALLS_PER_BUNDLE)
        if seconds is not None:
            assert count * seconds <= now.bundle_seconds * 1.001


@bounded
@given(
    count=st.integers(1, 2000),
    slots=st.integers(1, 64),
    seconds=st.sampled_from([None, 0.02, 0.1, 30.0]),
    window=st.integers(1, 4),
    cores=st.integers(1, 8),
)
def test_one_submission_reaches_every_slot(
    count: int, slots: int, seconds: float | None, window: int, cores: int
) -> None:
    """No bundle is so big that another slot has nothing to do."""
    known: dict[Hashable, float] = {} if seconds is None else {"a": seconds}
    calls = [QueuedCall(no, 0, "a", 10) for no in range(1, count + 1)]
    cores = min(cores, slots)
    plans = decide([(1, calls)], Situation(slots, 0, count, known, window, cores={"a": cores}, largest=cores))
    assert len(plans) >= min(slots // cores, count)


def test_what_is_not_seen_counts_for_the_size_of_bundles() -> None:
    """A refill looks at the head of a long queue only; its bundles are cut for the whole queue."""
    head = [QueuedCall(no, 0, "a", 10) for no in range(1, 301)]
    first = decide([(1, head)], Situation(slots=2, open=0, queued=10_000, seconds={}))[0]
    assert len(first.nos) == UNKNOWN_CALLS


def test_an_unseen_kind_starts_big_and_a_known_one_is_cut_to_its_worth() -> None:
    calls = [QueuedCall(no, 0, "a", 10) for no in range(1, 2001)]
    unknown = decide([(1, calls)], Situation(slots=1, open=0, queued=2000, seconds={}))
    known = decide([(1, calls)], Situation(slots=1, open=0, queued=2000, seconds={"a": 0.004}))
    assert [len(plan.nos) for plan in unknown][:1] == [UNKNOWN_CALLS]
    assert [len(plan.nos) for plan in known] == [25, 25, 25]


@pytest.mark.parametrize("open_bundles", [6, 7, 100])
def test_a_full_window_sends_nothing(open_bundles: int) -> None:
    calls = [QueuedCall(1, 0, "a", 10)]
    assert decide([(1, calls)], Situation(slots=2, open=open_bundles, queued=1, seconds={})) == []
