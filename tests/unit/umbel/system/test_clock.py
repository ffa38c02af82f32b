"""The time of the service while the system's clock jumps."""

from __future__ import annotations

import time

import pytest

from umbel.system.clock import ACCEPT_AFTER, SteadyClock


class Clocks:
    """A wall clock and a steady clock, moved by hand."""

    def __init__(self) -> None:
        self.wall, self.steady = 1_000_000.0, 50.0
        self.clock = SteadyClock(lambda: self.wall, lambda: self.steady)

    def run(self, seconds: float) -> float:
        self.wall += seconds
        self.steady += seconds
        return self.clock()


def test_it_is_the_systems_time_usually() -> None:
    clocks = Clocks()
    assert clocks.run(100) == pytest.approx(1_000_100)
    clocks.wall += 5  # a step of a time service
    assert clocks.run(1) == pytest.approx(1_000_106)


@pytest.mark.parametrize("jump", [7200.0, -7200.0])
def test_a_jump_that_is_undone_has_no_effect(jump: float, caplog: pytest.LogCaptureFixture) -> None:
    clocks = Clocks()
    clocks.wall += jump
    assert clocks.run(60) == pytest.approx(1_000_060)
    assert clocks.run(60) == pytest.approx(1_000_120)
    assert len(caplog.records) == 1
    clocks.wall -= jump
    assert clocks.run(60) == pytest.approx(1_000_180)


@pytest.mark.parametrize("jump", [7200.0, -7200.0])
def test_a_jump_that_lasts_is_followed(jump: float) -> None:
    clocks = Clocks()
    clocks.wall += jump
    clocks.run(1)
    clocks.run(ACCEPT_AFTER / 2)
    assert clocks.clock() == pytest.approx(clocks.wall - jump)
    clocks.run(ACCEPT_AFTER / 2 + 1)
    assert clocks.clock() == pytest.approx(clocks.wall)


def test_another_jump_begins_the_wait_again() -> None:
    clocks = Clocks()
    clocks.wall += 7200
    clocks.run(1)
    clocks.run(ACCEPT_AFTER - 10)
    clocks.wall += 7200
    clocks.run(20)
    assert clocks.clock() == pytest.approx(clocks.wall - 14400)


def test_the_default_is_the_systems_clock() -> None:
    assert SteadyClock()() == pytest.approx(time.time(), abs=1)
