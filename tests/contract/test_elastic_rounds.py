"""When the rounds of elastic endpoints run, on a real ledger, with reconcilers that only count."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import insert, select, update

from federation.db.tables import loads, nodes, users
from federation.provision import rounds
from federation.provision.planning import demand
from federation.provision.planning.policy import Policy
from federation.provision.records import blocks, sites
from federation.provision.rounds import Rounds
from federation.registry import endpoints
from tests.support.api import Api
from tests.support.wait import wait_until
from umbel.protocol.errors import NotFound

SITE = {"address": "ssh://me@login.example", "scheduler": "slurm"}


class Counted:
    """A reconciler whose rounds are counted. ``gate``: what a round waits for."""

    def __init__(self) -> None:
        self.rounds, self.pause, self.closed = 0, math.inf, False
        self.error: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()

    def run_once(self) -> float:
        self.rounds += 1
        assert self.gate.wait(20.0)
        if self.error is not None:
            raise self.error
        return self.pause

    def close(self) -> None:
        self.closed = True


class World:
    """Elastic endpoints ``0``, ``1``, … of ada, and the rounds over them, moved by hand."""

    def __init__(self, api: Api, count: int = 1):
        self.api = api
        self.numbers = [self.add(str(number)) for number in range(count)]
        self.opened: dict[int, list[Counted]] = {}
        self.rounds = Rounds(api.fed, self._open)

    def add(self, name: str) -> int:
        fed, user = self.api.fed, self.api.user
        endpoints.register(fed, user, name=name, public_key=bytes(32))
        no = int(endpoints.find(fed, user, name).no)
        sites.add(fed, no, sites.SiteSettings.from_dict(SITE), Policy())
        return no

    def _open(self, no: int) -> Counted:
        return self.opened.setdefault(no, []).append(Counted()) or self.opened[no][-1]

    def turn(self) -> None:
        """Look, start what is due, and wait for its end."""
        self.rounds.look()
        self.settle()

    def settle(self) -> None:
        self.rounds.start_due()
        for thread in list(self.rounds._running.values()):
            thread.join(20.0)

    def until(self, no: int, count: int) -> None:
        """Turn until an endpoint has had so many rounds."""

        def turned() -> bool:
            self.turn()
            return sum(each.rounds for each in self.opened[no]) == count

        wait_until(turned, 10.0, what=f"round {count}")

    def count(self, no: int) -> int:
        return sum(each.rounds for each in self.opened.get(no, ()))

    def write(self, statement: Any) -> None:
        with self.api.fed.database.write() as connection:
            connection.execute(statement)

    def load(self, no: int, **values: int) -> None:
        with self.api.fed.database.write() as connection:
            user_no = connection.execute(select(users.c.no).limit(1)).scalar_one()
            connection.execute(insert(loads).values(endpoint_no=no, user_no=user_no, **values))


@pytest.fixture
def world(api: Api, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(rounds, "RECONCILE_INTERVAL", 0.0)
    return World(api)


def a_node(world: World, **values: Any) -> Any:
    defaults = {
        "instance": "i",
        "slots": 1,
        "busy": 0,
        "facts": json.dumps({}),
        "since": 1.0,
        "seen": 1.0,
        "live": 1,
    }
    return insert(nodes).values(endpoint_no=world.numbers[0], name="n", **{**defaults, **values})


CHANGES: dict[str, Callable[[World], None]] = {
    "work": lambda w: w.load(w.numbers[0], live=1),
    "policy": lambda w: sites.set_policy(w.api.fed, w.api.user, "0", {"max_blocks": 2}) and None,
    "pause": lambda w: sites.pause(w.api.fed, w.api.user, "0", "why") and None,
    "block": lambda w: blocks.add(w.api.fed, w.numbers[0], "umbel-00000000-00000001", Policy(), 1.0),
    "node": lambda w: w.write(a_node(w)),
    "removal": lambda w: endpoints.delete(w.api.fed, w.api.user, "0") and None,
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_idle_endpoint_has_a_round_after_a_change_and_no_other(world: World, change: str) -> None:
    (no,) = world.numbers
    world.turn()
    assert world.count(no) == 1
    for _ in range(3):
        world.turn()
    assert world.count(no) == 1
    CHANGES[change](world)
    world.turn()
    assert world.count(no) == 2
    world.turn()
    assert world.count(no) == 2


def test_the_load_of_nodes_and_their_end_are_changes(world: World) -> None:
    (no,) = world.numbers
    world.write(a_node(world))
    world.turn()
    mine = nodes.c.endpoint_no == no
    for number, values in enumerate(({"busy": 1}, {"slots": 2}, {"live": 0}), 2):
        world.write(update(nodes).where(mine).values(**values))
        world.turn()
        assert world.count(no) == number
    # that a node was seen again is none: it happens all the time
    world.write(update(nodes).where(mine).values(seen=99.0))
    world.turn()
    assert world.count(no) == 4


def test_a_change_during_a_round_is_followed_by_another_round(world: World) -> None:
    (no,) = world.numbers
    world.turn()
    (counted,) = world.opened[no]
    counted.gate.clear()
    world.load(no, live=1)
    world.rounds.look()
    world.rounds.start_due()
    wait_until(lambda: counted.rounds == 2, what="the round")
    world.write(update(loads).values(live=2))
    world.rounds.look()
    world.rounds.start_due()
    assert counted.rounds == 2
    counted.gate.set()
    world.settle()
    world.until(no, 3)
    world.turn()
    assert counted.rounds == 3


def test_rounds_of_one_endpoint_have_a_pause_between_them(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    (no,) = world.numbers
    monkeypatch.setattr(rounds, "RECONCILE_INTERVAL", 60.0)
    world.turn()
    world.load(no, live=1)
    world.turn()
    assert world.count(no) == 1
    # the first block is urgent
    world.rounds.look_for_work()
    world.settle()
    assert world.count(no) == 2


def test_a_round_is_due_when_the_last_one_has_said(world: World) -> None:
    (no,) = world.numbers
    world.turn()
    (counted,) = world.opened[no]
    counted.pause = 0.2
    world.load(no, live=1)
    began = time.monotonic()
    world.turn()
    counted.pause = math.inf
    world.until(no, 3)
    assert time.monotonic() - began >= 0.2


def test_work_at_an_endpoint_without_blocks_is_urgent_once(world: World) -> None:
    (no,) = world.numbers
    world.turn()
    world.rounds.look_for_work()
    world.settle()
    assert world.count(no) == 1
    world.load(no, live=1)
    for _ in range(3):
        world.rounds.look_for_work()
        world.settle()
    assert world.count(no) == 2
    blocks.add(world.api.fed, no, "umbel-00000000-00000001", Policy(), 1.0)
    with world.api.fed.database.read() as connection:
        assert demand.endpoints_without_blocks(connection) == set()


def test_a_slow_site_delays_no_other_and_an_error_ends_no_other(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(rounds, "RECONCILE_INTERVAL", 0.0)
    monkeypatch.setattr(rounds, "RESTART_PAUSE", 0.1)
    world = World(api, 3)
    world.turn()
    slow, broken, sound = world.numbers
    world.opened[slow][0].gate.clear()
    world.opened[broken][0].error = KeyError("unexpected")
    for no in world.numbers:
        world.load(no, live=1)
    world.rounds.look()
    world.rounds.start_due()
    wait_until(lambda: (world.count(sound), world.count(broken)) == (2, 2), what="the rounds of the others")
    wait_until(lambda: world.opened[broken][0].closed, what="the end of the broken one")
    assert "unexpected error" in caplog.text
    wait_until(lambda: world.rounds.start_due() or world.count(broken) == 3, what="its restart")
    assert len(world.opened[broken]) == 2
    world.opened[slow][0].gate.set()
    world.rounds.close(20.0)
    assert all(found[-1].closed for found in world.opened.values())


def test_an_endpoint_that_is_gone_is_forgotten(world: World) -> None:
    (no,) = world.numbers
    world.turn()
    (counted,) = world.opened[no]
    sites.remove(world.api.fed, no)
    counted.error = NotFound("the endpoint is not elastic")
    world.turn()
    assert counted.closed and not world.rounds._due and not world.rounds._reconcilers
    world.turn()
    assert counted.rounds == 2


def test_the_loop_finds_work_and_ends(world: World) -> None:
    (no,) = world.numbers
    stop = threading.Event()
    thread = threading.Thread(target=world.rounds.run, args=(stop,))
    thread.start()
    try:
        wait_until(lambda: world.count(no) == 1, what="the first round")
        world.load(no, live=1)
        wait_until(lambda: world.count(no) >= 2, what="the round for the work")
    finally:
        stop.set()
        thread.join(20.0)
    assert not thread.is_alive() and world.opened[no][0].closed
