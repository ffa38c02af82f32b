"""The life of a task."""

from __future__ import annotations

import json

import pytest

from umbel.protocol.states import FINAL, LIVE, TRANSITIONS, EndpointState, TaskState


def test_every_state_has_its_moves_and_is_live_or_final() -> None:
    assert set(TRANSITIONS) == set(TaskState)
    assert LIVE | FINAL == set(TaskState) and not LIVE & FINAL


@pytest.mark.parametrize("state", sorted(FINAL))
def test_an_end_is_an_end(state: TaskState) -> None:
    assert state.final and not any(state.may_become(other) for other in TaskState)


@pytest.mark.parametrize("state", sorted(LIVE))
def test_from_every_live_state_every_end_can_be_reached(state: TaskState) -> None:
    reached, waiting = set(), [state]
    while waiting:
        for other in TRANSITIONS[waiting.pop()]:
            if other not in reached:
                reached.add(other)
                waiting.append(other)
    assert FINAL <= reached and not state.final


def test_a_task_that_runs_cannot_expire_and_nothing_becomes_waiting_again() -> None:
    assert not TaskState.RUNNING.may_become(TaskState.EXPIRED)
    assert not any(state.may_become(TaskState.WAITING) for state in TaskState)


def test_states_read_as_their_values() -> None:
    assert [str(TaskState.QUEUED), f"{EndpointState.ONLINE}", json.dumps(TaskState.FAILED)] == [
        "queued",
        "online",
        '"failed"',
    ]
    assert TaskState("running") is TaskState.RUNNING
