"""The checker itself: a good history has no fault, and each kind of broken promise is found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.soak.history import History

Events = list[dict[str, Any]]


def _history() -> tuple[Events, list[int]]:
    """Three calls of one group: a value, an exception, and one that died and ran again."""
    events: Events = []
    outcomes = [
        (1, "value", "succeeded", None),
        (2, "ValueError", "failed", "TASK_ERROR"),
        (3, "value", "succeeded", None),
    ]
    for number, outcome, state, code in outcomes:
        events.append({"event": "made", "number": number, "group": "g", "starts": 3, "may": [outcome]})
        events.append({"event": "ended", "number": number, "task": f"t{number}", "outcome": outcome})
        for _ in range(2):
            events.append(
                {"event": "seen", "group": "g", "task": f"t{number}", "completion": number, "state": state,
                 "code": code, "digest": f"d{number}"}
            )  # fmt: skip
    return events, [1, 2, 3, 3]


def test_a_withdrawn_call_may_have_ended_or_not_have_come_into_being() -> None:
    for task in ("t1", None):
        events, starts = _history()
        events[0]["may"] = ["withdrawn"]
        events[1].update(outcome="withdrawn", task=task)
        assert History(events, starts).faults() == []


def _refused() -> tuple[Events, list[int]]:
    """Two more calls: one meets a full disk, the acceptance of the other is not answered."""
    events, starts = _history()
    what = "full disk of the service, web killed"
    may = ["value", "unanswered"]
    for number in (4, 5):
        events.append({"event": "made", "number": number, "group": "g", "starts": 3, "may": may})
    events.append({"event": "strike", "what": what})
    for number, outcome in ((4, "refused"), (5, "unanswered")):
        events.append({"event": "ended", "number": number, "task": None, "outcome": outcome})
    events.append({"event": "calm", "what": what})
    return events, starts


def test_a_full_disk_may_refuse_and_an_unanswered_call_may_have_a_task() -> None:
    events, starts = _refused()
    assert History(events, starts).faults() == []
    events.append({**events[2], "task": "t5", "completion": 4})
    assert History(events, [*starts, 5]).faults() == []


def _refused_and_started(events: Events, starts: list[int]) -> None:
    starts.append(4)


def _refused_and_accepted(events: Events, starts: list[int]) -> None:
    next(e for e in events if e["event"] == "ended" and e["number"] == 4)["task"] = "t4"


def _unanswered_and_accepted(events: Events, starts: list[int]) -> None:
    next(e for e in events if e["event"] == "ended" and e["number"] == 5)["task"] = "t5"


def _refused_and_stored(events: Events, starts: list[int]) -> None:
    events += [{**events[2], "task": f"t{number}", "completion": number} for number in (4, 5)]


def _refused_before(events: Events, starts: list[int]) -> None:
    events.append(events.pop(next(n for n, e in enumerate(events) if e["event"] == "strike")))
    events.append(events.pop(next(n for n, e in enumerate(events) if e["event"] == "calm")))


def _refused_after(events: Events, starts: list[int]) -> None:
    for kind in ("calm", "strike"):
        events.insert(0, events.pop(next(n for n, e in enumerate(events) if e["event"] == kind)))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_refused_and_started, "call 4: refused, and started"),
        (_refused_and_accepted, "call 4: accepted, its future ended as refused"),
        (_unanswered_and_accepted, "call 5: accepted, its future ended as unanswered"),
        (_refused_and_stored, "group g has 1 tasks that no call asked for"),
        (_refused_before, "call 4: refused, and no disk was full"),
        (_refused_after, "call 4: refused, and no disk was full"),
    ],
)
def test_what_a_full_disk_does_not_excuse(damage: Callable[[Events, list[int]], None], words: str) -> None:
    events, starts = _refused()
    damage(events, starts)
    assert any(words in fault for fault in History(events, starts).faults())


def test_a_good_history_has_no_fault() -> None:
    history = History(*_history())
    assert history.faults() == []
    assert history.summary() == "3 calls (value 2, ValueError 1), 4 starts, 1 started again"


def test_a_call_may_be_lost_after_all_its_starts_and_not_before() -> None:
    for more, right in (([3], True), ([], False)):
        events, starts = _history()
        for event in events:
            if event["event"] == "ended" and event["number"] == 3:
                event["outcome"] = "WORKER_LOST"
            elif event["event"] == "seen" and event["task"] == "t3":
                event.update(state="failed", code="WORKER_LOST")
        assert (History(events, starts + more).faults() == []) is right


def _drop(events: Events, **like: Any) -> None:
    events[:] = [event for event in events if not like.items() <= event.items()]


def _lost_task(events: Events, starts: list[int]) -> None:
    _drop(events, event="seen", task="t3")


def _hanging_future(events: Events, starts: list[int]) -> None:
    _drop(events, event="ended", number=3)


def _future_ends_twice(events: Events, starts: list[int]) -> None:
    events.append({"event": "ended", "number": 1, "task": "t1", "outcome": "value"})


def _wrong_outcome(events: Events, starts: list[int]) -> None:
    next(e for e in events if e["event"] == "ended")["outcome"] = "WORKER_LOST"


def _second_result(events: Events, starts: list[int]) -> None:
    events[-1]["digest"] = "another"


def _gap(events: Events, starts: list[int]) -> None:
    for event in events:
        if event.get("completion") == 3:
            event["completion"] = 4


def _too_many_starts(events: Events, starts: list[int]) -> None:
    starts += [3, 3]


def _never_started(events: Events, starts: list[int]) -> None:
    starts.remove(1)


def _unknown_call(events: Events, starts: list[int]) -> None:
    starts.append(9)


def _other_state(events: Events, starts: list[int]) -> None:
    for event in events:
        if event.get("task") == "t2" and event["event"] == "seen":
            event["state"], event["code"] = "succeeded", None


def _shared_task(events: Events, starts: list[int]) -> None:
    for event in events:
        if event["event"] == "ended" and event["number"] == 3:
            event["task"] = "t1"


def _other_group(events: Events, starts: list[int]) -> None:
    events[0]["group"] = "h"


def _stranger(events: Events, starts: list[int]) -> None:
    events.append({**events[2], "task": "t4", "completion": 4})


def _not_accepted(events: Events, starts: list[int]) -> None:
    next(e for e in events if e["event"] == "ended")["task"] = None


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_lost_task, "task t3 is lost"),
        (_hanging_future, "its future ended 0 times"),
        (_future_ends_twice, "its future ended 2 times"),
        (_wrong_outcome, "ended as WORKER_LOST, allowed: value"),
        (_second_result, "task t3 has 2 results"),
        (_gap, "gaps or repetitions"),
        (_too_many_starts, "call 3: started 4 times, allowed: 3"),
        (_never_started, "call 1: ended as value and was never started"),
        (_unknown_call, "call 9: nobody asked for it"),
        (_other_state, "call 2: ended as ValueError, the service shows"),
        (_shared_task, "task t1 belongs to 2 calls"),
        (_other_group, "task t1 of call 1 is in group g"),
        (_stranger, "group g has 1 tasks that no call asked for"),
        (_not_accepted, "call 1: never accepted"),
    ],
)
def test_each_broken_promise_is_found(damage: Callable[[Events, list[int]], None], words: str) -> None:
    events, starts = _history()
    damage(events, starts)
    assert any(words in fault for fault in History(events, starts).faults())
