"""A process of the service whose clock jumped two hours ahead for a while."""

from __future__ import annotations

from dataclasses import replace

import pytest

from federation.services.collector import Collector
from federation.services.sweeper import Sweeper
from tests.support.clock import Clock
from tests.support.endpoint import FakeEndpoint, FakeNode
from tests.support.ledger import Ledger
from umbel.system.clock import SteadyClock


@pytest.mark.parametrize("jump", [7200.0, -7200.0])
def test_a_jump_of_the_sweepers_clock_expires_nothing(
    ledger: Ledger, lab: FakeEndpoint, node: FakeNode, jump: float
) -> None:
    wall = Clock()
    sweeper = Sweeper(replace(ledger.fed, clock=SteadyClock(wall)), ledger.clock.ticks)
    running = ledger.submit(lab, 1, max_attempts=1)
    node.take()
    node.beat()
    ledger.collect()
    finished = ledger.submit(lab, 1)
    waiting = ledger.submit(lab, 1, expires=600)
    wall.forward(jump)
    for _ in range(3):
        sweeper.sweep()
    assert ledger.state(running) == "dispatched" and ledger.state(waiting) != "expired"
    wall.forward(-jump)
    sweeper.sweep()
    node.take()
    node.finish()
    ledger.collect()
    for answer in (running, finished, waiting):
        assert ledger.state(answer) == "succeeded"


def test_times_from_a_wrong_clock_leave_no_work_stuck(
    ledger: Ledger, lab: FakeEndpoint, node: FakeNode
) -> None:
    """A process that started with a wrong clock has written times that lie two hours ahead."""
    ledger.clock.forward(7200)
    ledger.broker.wipe()
    ledger.sweep()
    answer = ledger.submit(lab, 1)
    held = ledger.submit(lab, 1)
    ledger.broker.deaf = False
    node.take(1)
    node.beat()
    ledger.collect()
    ledger.broker.wipe()
    ledger.sweep()
    ledger.clock.forward(-7200)
    ledger.collector = Collector(ledger.fed, "c1")
    # the node is lost without a word, and what was sent is in no queue any more
    ledger.broker.redis.delete(f"/ep:{lab.id}:q")
    other = lab.node("n2")
    for _ in range(12):
        ledger.sweep(after=10)
        other.beat()
        ledger.collect()
    other.take()
    other.finish()
    ledger.collect()
    assert ledger.state(answer) == ledger.state(held) == "succeeded"
