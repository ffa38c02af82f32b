"""A step whose cost grows takes a limited share of the time."""

from __future__ import annotations

import pytest

from federation.services.pace import FREE_SECONDS, SHARE, Pace


class Step:
    """A step that takes time on a clock that the test moves."""

    def __init__(self) -> None:
        self.now, self.cost, self.runs = 100.0, 0.0, 0

    def __call__(self) -> None:
        self.runs += 1
        self.now += self.cost
        if self.cost > 10:
            raise ValueError


def test_a_short_step_runs_each_time() -> None:
    step = Step()
    pace = Pace(step, lambda: step.now)
    step.cost = FREE_SECONDS / 2
    for _ in range(3):
        pace.run()
    assert step.runs == 3


def test_a_long_step_waits_for_its_share_of_the_time() -> None:
    step = Step()
    pace = Pace(step, lambda: step.now)
    step.cost = 1.0
    pace.run()
    step.now += 0.99 / SHARE
    pace.run()
    assert step.runs == 1
    step.now += 0.02 / SHARE
    pace.run()
    assert step.runs == 2


def test_a_step_that_fails_waits_too() -> None:
    step = Step()
    pace = Pace(step, lambda: step.now)
    step.cost = 11.0
    with pytest.raises(ValueError):
        pace.run()
    pace.run()
    assert step.runs == 1
