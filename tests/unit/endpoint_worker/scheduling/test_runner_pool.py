"""Which runner is in which slot: decided without processes, for runners that do what the test says."""

from __future__ import annotations

import errno
import math
import selectors
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from endpoint_worker.config.hardware import Layout
from endpoint_worker.runners import call_directories
from endpoint_worker.runners.process import RunnerOptions
from endpoint_worker.scheduling import parking, runner_pool
from endpoint_worker.scheduling.placement import widened
from endpoint_worker.scheduling.runner_pool import RunnerPool

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class FakeSlot:
    """A runner of which nothing exists but its state."""

    def __init__(self, number: int, options: RunnerOptions, borrowed: Sequence[int] = ()):
        self.number, self.options, self.borrowed = number, options, borrowed
        self.state, self.execution = "starting", None
        self.retiring = self.was_ready = self.timed_out = self.eof = False
        self.parked: float | None = None
        self.leftovers = ""
        self.born = self.idle_since = 0.0
        self.function: str | None = None
        self.last_call = None
        self.end_by = math.inf
        self.backlogged = self.has_unsent = self.needs_check = False
        self.environment_broken = self.due = False
        self.how: str | None = None
        self.sock = SimpleNamespace()
        self.closed: list[object] = []
        self.ends = 0
        self.process: Any = SimpleNamespace(
            killed=False, outer_pid=1000 + number, close=self.closed.append, cpu_seconds=lambda: 0.0
        )

    @property
    def key(self) -> object:
        return self.options.key

    def ready(self, *, function: str | None = None, since: float = 0.0, leftovers: str = "") -> FakeSlot:
        self.state, self.was_ready = "idle", True
        self.function, self.idle_since, self.leftovers = function, since, leftovers
        return self

    def busy(self) -> FakeSlot:
        self.ready(function="f").state = "busy"
        self.execution = SimpleNamespace()  # type: ignore[assignment]
        return self

    def kill(self) -> None:
        self.process.killed = True

    def end(self) -> None:
        self.ends += 1
        self.kill()

    def ended(self) -> str | None:
        return self.how

    def due_for_recycling(self) -> bool:
        return self.due


class FakeSelector:
    def __init__(self) -> None:
        self.watched: dict[int, tuple[int, FakeSlot]] = {}
        self.changes = 0

    def register(self, sock: object, events: int, slot: FakeSlot) -> None:
        assert id(sock) not in self.watched and events
        self.changes += 1
        self.watched[id(sock)] = events, slot

    def modify(self, sock: object, events: int, slot: FakeSlot) -> None:
        assert id(sock) in self.watched and events
        self.changes += 1
        self.watched[id(sock)] = events, slot

    def unregister(self, sock: object) -> None:
        del self.watched[id(sock)]


class World:
    """A pool whose runners are fake ones; ``errors``: of the next starts; ``now``: its clock."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        self.options = RunnerOptions(folder, key="red", warm_runners=0)
        self.monkeypatch = monkeypatch
        self.errors: list[Exception] = []
        self.now = 1000.0
        self.sleeps: list[Callable[[], None]] = []
        self.selector = FakeSelector()
        monkeypatch.setattr(runner_pool, "Slot", self._start)
        clock = SimpleNamespace(monotonic=lambda: self.now, sleep=self._sleep)
        monkeypatch.setattr(runner_pool, "time", clock)

    def _start(self, *args: Any) -> FakeSlot:
        if self.errors:
            raise self.errors.pop(0)
        slot = FakeSlot(*args)
        slot.born = self.now
        return slot

    def _sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.sleeps:
            self.sleeps.pop(0)()

    def pool(self, size: int, *, ready: bool = True, **options: Any) -> Any:
        adopts = options.pop("adopts_orphans", False)
        self.options = replace(self.options, **options)
        pool: Any = RunnerPool(self.options, size, self.selector, adopts_orphans=adopts)  # type: ignore
        self.fill(pool)
        if ready:
            for slot in pool.slots:
                slot.ready()
        return pool

    def fill(self, pool: Any) -> None:
        pool.replace(self.now, start=True)

    def other(self, key: str) -> RunnerOptions:
        return replace(self.options, key=key)

    def used(self, pool: Any, *functions: str | None, since: float = 0.0) -> None:
        for slot, function in zip(pool.slots, functions):
            slot.ready(function=function, since=since)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


def numbers(pool: Any) -> list[int]:
    return [slot.number for slot in pool.slots]


def killed(pool: Any) -> list[int]:
    return [slot.number for slot in pool.slots if slot.process.killed]


def gone(pool: Any, slot: FakeSlot, how: str = "ended") -> None:
    slot.state = "dead"
    pool.remove(slot, how)


def test_every_slot_gets_a_runner_that_is_watched(world: World) -> None:
    pool = world.pool(3, ready=False)
    assert numbers(pool) == [0, 1, 2] and all(slot.options is world.options for slot in pool.slots)
    assert pool.starting and not pool.idle and not pool.busy
    assert sorted(events for events, _ in world.selector.watched.values()) == [READ] * 3
    for slot in pool.slots:
        slot.ready()
    assert not pool.starting and pool.idle
    gone(pool, pool.slots[1])
    assert pool.starting, "one is missing"
    pool.replace(world.now, start=False)
    assert numbers(pool) == [0, 2]
    world.fill(pool)
    assert numbers(pool) == [0, 2, 1]
    assert len(world.selector.watched) == 3


def test_what_keeps_a_slot_busy_or_in_need_of_a_look(world: World) -> None:
    pool = world.pool(2)
    first, second = pool.slots
    assert not pool.needs_check and pool.executions == []
    first.busy()
    assert pool.busy == 1 and pool.executions == [first.execution] and pool.idle
    second.busy()
    assert pool.busy == 2 and not pool.idle
    first.needs_check = True
    assert pool.needs_check
    first.needs_check = False
    second.kill()
    assert pool.needs_check and pool.starting


@pytest.mark.parametrize("reason", ["busy", "retiring", "killed", "parked", "borrowed", "kind", "starting"])
def test_a_runner_that_is_not_free_is_not_chosen(world: World, reason: str) -> None:
    pool = world.pool(1)
    (slot,) = pool.slots
    slot.function = "f"
    assert pool.choose("f", world.options) is slot and pool.choose("g", world.options) is slot
    if reason == "busy":
        slot.state = "busy"
    elif reason == "retiring":
        slot.retiring = True
    elif reason == "killed":
        slot.kill()
    elif reason == "parked":
        slot.parked = 1.0
    elif reason == "borrowed":
        pool._borrowed.add(slot.number)
    elif reason == "kind":
        slot.options = world.other("blue")
    else:
        slot.state = "starting"
    assert pool.choose("f", world.options) is None
    assert pool.idle == (reason == "kind")


def test_the_runner_that_ran_a_function_last_runs_it_again(world: World) -> None:
    pool = world.pool(4)
    world.used(pool, None, "f", "g", "h")
    assert [pool.choose(function, world.options).number for function in "fgh"] == [1, 2, 3]
    assert pool.choose("new", world.options).number == 1, "unused ones are for other users, too"
    pool.slots[2].leftovers = "a thread"
    assert pool.choose("g", world.options).number == 2, "they are its own leftovers"
    assert pool.choose("new", world.options).number == 1
    assert not killed(pool)
    for slot in pool.slots:
        slot.leftovers = "a thread"
    assert pool.choose("new", world.options) is None
    assert killed(pool) == [0, 1, 2, 3] and len(pool._requested) == 4


def test_idle_runners_make_room_for_another_kind_the_longest_idle_first(world: World) -> None:
    pool = world.pool(3)
    world.used(pool, "f", "g", "h")
    for slot, since in zip(pool.slots, (3.0, 1.0, 2.0)):
        slot.idle_since = since
    blue = world.other("blue")
    pool.convert(blue, 2, {"red"})
    assert not killed(pool), "they are spared"
    pool.convert(blue, 1, ())
    assert killed(pool) == [1]
    pool.convert(blue, 1, ())
    assert killed(pool) == [1], "one is requested"
    pool.convert(blue, 2, ())
    assert killed(pool) == [1, 2]
    for slot in list(pool.slots)[1:]:
        gone(pool, slot)
    world.fill(pool)
    assert [(slot.number, slot.key) for slot in pool.slots] == [(0, "red"), (1, "blue"), (2, "blue")]
    pool.convert(blue, 2, ())
    assert not killed(pool), "two are starting"
    for slot in pool.slots[1:]:
        slot.ready()
    pool.convert(blue, 2, ())
    assert killed(pool) == [0], "those of the kind stay, but are not coming"


def test_as_many_runners_as_wanted_make_room_whatever_else_is_starting(world: World) -> None:
    pool = world.pool(4)
    world.used(pool, "f", "g", "h")
    pool.slots[3].options, pool.slots[3].state = world.other("green"), "starting"
    pool.convert(world.other("blue"), 2, ())
    assert killed(pool) == [0, 1]


def test_a_parked_runner_takes_the_place_of_another_one(world: World) -> None:
    pool = world.pool(2, warm_runners=4)
    world.used(pool, "f", "g")
    for slot, since in zip(pool.slots, (2.0, 1.0)):
        slot.idle_since = since
    blue = world.other("blue")
    pool.convert(blue, 1, ())
    assert [slot.parked is not None for slot in pool.slots] == [False, True] and pool.vacated
    assert not killed(pool)
    world.fill(pool)
    assert not pool.vacated and not pool._requested
    new = pool.slots[2]
    assert (new.number, new.key) == (1, "blue")
    new.ready(function="b", since=1.0)
    pool.slots[0].state = "busy"
    # the parked one comes back into the slot of the idle one, which is parked
    found = pool.choose("other", world.options)
    assert found is pool.slots[1] and found.parked is None and found.number == 1
    assert new.parked == world.now and not killed(pool)


def test_a_parked_runner_that_ran_the_function_last_is_preferred(world: World) -> None:
    pool = world.pool(2, warm_runners=4)
    world.used(pool, "f", "g")
    first, second = pool.slots
    second.parked = 1.0
    assert pool.choose("other", world.options) is first and second.parked is not None
    assert pool.choose("g", world.options) is second and second.parked is None
    assert first.parked == world.now and second.number == 0


def test_a_runner_with_other_processors_is_not_swapped(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = world.pool(2, warm_runners=4)
    world.used(pool, "f", "g")
    first, second = pool.slots
    second.parked = 1.0
    monkeypatch.setattr(Layout, "affinity", lambda _, numbers: numbers)
    assert pool.choose("g", world.options) is first
    second.number = 0
    assert pool.choose("g", world.options) is second
    monkeypatch.setattr(Layout, "affinity", lambda *_: None)
    monkeypatch.setattr(Layout, "environment", lambda _, numbers: {"CUDA": str(numbers)})
    first.number, second.number = 0, 1
    assert not pool._same_hardware(second, 0) and pool._same_hardware(second, 1)


@pytest.mark.parametrize("requested", [0, 1])
def test_a_free_slot_takes_a_parked_runner_before_a_new_one(world: World, requested: int) -> None:
    pool = world.pool(2, warm_runners=4)
    world.used(pool, "f", "g")
    first, second = pool.slots
    second.parked = 1.0
    pool._requested.extend([world.options] * requested)
    world.fill(pool)
    assert second.parked is None and second.number == 1 and len(pool.slots) == 2
    assert not pool._requested


def test_a_free_slot_takes_no_parked_runner_with_other_processors(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = world.pool(2, warm_runners=4)
    world.used(pool, "f", "g")
    first, second = pool.slots
    first.number, second.number, second.parked = 1, 1, world.now
    monkeypatch.setattr(Layout, "affinity", lambda _, numbers: numbers)
    world.fill(pool)
    assert second.parked == world.now and numbers(pool) == [1, 1, 0]


def test_a_call_on_several_slots_gets_a_runner_of_its_own(world: World) -> None:
    pool = world.pool(3)
    world.used(pool, "f", "g", "h")
    wide = widened(world.options, 2)
    pool.slots[0].busy()
    assert pool.widen(wide)
    first, kept = pool.slots[1], pool.slots[2]
    assert killed(pool) == [1] and not pool.idle, "the other one is borrowed"
    assert pool.widen(wide) and killed(pool) == [1], "it is ordered"
    gone(pool, first)
    assert not pool._requested
    world.fill(pool)
    runner = pool.slots[2]
    assert (runner.number, runner.borrowed, runner.options) == (1, [2], wide) and not pool._wide
    assert pool.widen(wide) and not killed(pool), "it is starting"
    assert pool.choose("w", wide) is None
    runner.ready()
    assert pool.choose("w", wide) is runner
    runner.busy()
    assert pool.busy == 3 and not pool.idle
    gone(pool, runner)
    assert pool.idle and pool.choose("h", world.options) is kept
    world.fill(pool)
    assert pool.slots[-1].options == world.options and pool.slots[-1].number == 1


def test_a_wide_runner_waits_until_enough_slots_are_free(world: World) -> None:
    pool = world.pool(3)
    pool.slots[0].busy(), pool.slots[2].busy()
    wide = widened(world.options, 2)
    assert not pool.widen(wide)
    assert not killed(pool) and not pool._borrowed
    # another wide runner that is idle ends first
    pool.slots[1].borrowed = [2]
    assert not pool.widen(wide) and killed(pool) == [1]


def test_a_wide_runner_makes_room_for_no_parked_one_and_is_not_renewed(world: World) -> None:
    pool = world.pool(2, warm_runners=4)
    wide, own = pool.slots
    wide.options, wide.borrowed = widened(world.options, 2), [1]
    pool._borrowed.add(own.number)
    pool.slots.append(FakeSlot(0, world.options).ready(function="f"))
    pool.slots[2].parked = world.now
    assert pool.choose("f", world.options) is None and pool.slots[2].parked is not None
    wide.leftovers = "a thread"
    world.now += 10.0
    pool._end_overdue(world.now)
    assert wide.process.killed and not pool._requested


def test_a_wide_runner_takes_slots_that_no_other_one_occupies(world: World) -> None:
    pool = world.pool(4)
    world.used(pool, "f", "g", "h", "i")
    pool.slots[0].options, pool.slots[0].borrowed = widened(world.other("blue"), 2), [1]
    pool._borrowed.add(1)
    wide = widened(world.options, 2)
    assert pool.widen(wide)
    assert killed(pool) == [0, 2] and pool._wide == {2: (wide, [3])} and pool._borrowed == {1, 3}
    pool = world.pool(4)
    assert pool.widen(wide)
    assert pool._wide == {0: (wide, [1])} and killed(pool) == [0]


def test_another_wide_runner_is_started_whatever_else_runs_or_starts(world: World) -> None:
    pool = world.pool(5)
    wide = widened(world.options, 2)
    pool.slots[0].busy()
    pool.slots[0].options, pool.slots[0].borrowed = wide, [1]
    pool._borrowed.add(1)
    pool.slots[2].state = "starting"
    assert pool.widen(wide)
    assert pool._wide == {3: (wide, [4])}


def test_a_wide_runner_that_cannot_be_started_gives_its_slots_back(world: World) -> None:
    pool = world.pool(2)
    assert pool.widen(widened(world.options, 2))
    gone(pool, pool.slots[0])
    pool._requested.append(world.other("blue"))
    world.errors = [OSError(errno.EAGAIN, "no process")]
    world.fill(pool)
    assert not pool._borrowed and not pool._wide and pool._requested
    assert "no process" in pool.problem and pool.unstartable is None


def test_watching_follows_what_a_slot_needs(world: World) -> None:
    pool = world.pool(1)
    (slot,) = pool.slots
    watched = world.selector.watched

    def events() -> list[int]:
        pool.register(slot)
        changes = world.selector.changes
        pool.register(slot)
        assert world.selector.changes == changes, "a system call for nothing"
        return [events for events, _ in watched.values()]

    assert events() == [READ]
    slot.has_unsent = True
    assert events() == [READ | WRITE]
    slot.backlogged = True
    assert events() == [WRITE]
    slot.has_unsent = False
    assert events() == []
    slot.backlogged = False
    assert events() == [READ]
    old, slot.sock = slot.sock, SimpleNamespace()
    assert events() == [READ] and id(slot.sock) in watched and id(old) not in watched
    slot.has_unsent, slot.eof = True, True
    assert events() == [] and not pool._registered


def test_a_runner_is_replaced_when_it_is_due(world: World) -> None:
    pool = world.pool(3)
    pool.slots[1].due = True
    pool.slots[2].retiring = True
    for slot in list(pool.slots):
        pool.recycle_if_due(slot)
    assert killed(pool) == [1, 2]


def test_a_smaller_node_loses_idle_runners_first(world: World) -> None:
    pool = world.pool(4)
    pool.slots[0].busy()
    pool.resize(-2)
    assert pool.size == 2
    assert [slot.retiring for slot in pool.slots] == [False, True, True, False]
    assert killed(pool) == [1, 2]
    pool.resize(-1)
    assert killed(pool) == [1, 2, 3] and not pool.slots[0].retiring
    pool.resize(-5)
    assert pool.size == 1 and not pool.slots[0].retiring
    pool.resize(1)
    for slot in list(pool.slots)[1:]:
        gone(pool, slot)
    world.fill(pool)
    assert numbers(pool) == [0, 1]


def test_busy_runners_of_a_smaller_node_end_later(world: World) -> None:
    pool = world.pool(3)
    for slot in pool.slots:
        slot.busy()
    pool.slots[2].parked = 1.0
    pool.resize(-2)
    assert [slot.retiring for slot in pool.slots] == [True, False, False] and not killed(pool)
    pool.recycle_if_due(pool.slots[0])
    assert killed(pool) == [0]


def test_all_runners_are_replaced_by_ones_of_their_kinds(world: World) -> None:
    pool = world.pool(3, warm_runners=4)
    pool.slots[0].options = world.other("blue")
    pool.slots[1].busy()
    parked = pool.slots[2]
    parked.parked = 1.0
    pool.replace_all()
    pool.replace_all()
    assert killed(pool) == [0, 2] and [slot.retiring for slot in pool.slots] == [True, True, False]
    assert [options.key for options in pool._requested] == ["blue"]


def test_a_runner_that_ends_is_followed_by_one_of_its_kind(world: World) -> None:
    pool = world.pool(2)
    slot = pool.slots[1]
    slot.options, slot.last_call = world.other("blue"), "t1"
    gone(pool, slot)
    assert slot.closed == ["t1"] and slot.eof and len(world.selector.watched) == 1
    assert [options.key for options in pool._requested] == ["blue"] and not pool.problem
    world.fill(pool)
    assert [slot.key for slot in pool.slots] == ["red", "blue"] and not pool._requested


@pytest.mark.parametrize("reason", ["parked", "wide", "smaller", "ordered"])
def test_a_runner_that_is_not_needed_any_more_has_no_successor(world: World, reason: str) -> None:
    pool = world.pool(2)
    slot = pool.slots[0]
    if reason == "parked":
        slot.parked = 1.0
    elif reason == "wide":
        slot.options = widened(world.options, 2)
    elif reason == "smaller":
        pool.size = 1
    else:
        pool._wide[0] = widened(world.options, 2), [1]
    gone(pool, slot)
    assert not pool._requested


def test_runners_that_do_not_start_are_tried_again_later_and_later(world: World) -> None:
    pool = world.pool(1, ready=False)
    delays = []
    for _ in range(9):
        (slot,) = pool.slots
        gone(pool, slot, "no library")
        assert pool.problem == "no library" and pool.starting
        world.fill(pool)
        assert not pool.slots and pool.problem, "not yet"
        delays.append(pool._retry_at - world.now)
        world.now = pool._retry_at
        world.fill(pool)
    assert delays == [min(runner_pool.MAX_DELAY, runner_pool.FIRST_DELAY * 2**n) for n in range(9)]
    pool.slots[0].ready()
    world.fill(pool)
    assert not pool.problem
    gone(pool, pool.slots[0])
    world.fill(pool)
    assert len(pool.slots) == 1 and pool._delay == 0.0, "a runner that was ready is replaced at once"


@pytest.mark.parametrize("reason", ["retiring", "environment_broken"])
def test_a_runner_that_nobody_waits_for_is_no_problem(world: World, reason: str) -> None:
    pool = world.pool(1, ready=False)
    setattr(pool.slots[0], reason, True)
    gone(pool, pool.slots[0])
    assert not pool.problem and not pool._requested
    world.fill(pool)
    assert len(pool.slots) == 1


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES, errno.EAGAIN])
@pytest.mark.parametrize("for_environment", [True, False])
def test_an_interpreter_that_is_missing_fails_its_kind(
    world: World, number: int, for_environment: bool
) -> None:
    pool = world.pool(1)
    blue = replace(world.other("blue"), for_environment=for_environment)
    pool.convert(blue, 1, ())
    pool._requested.append(blue)
    gone(pool, pool.slots[0])
    world.errors = [OSError(number, "cannot run it")]
    world.fill(pool)
    assert not pool.slots and "cannot run it" in pool.problem and len(pool._requested) == 1
    permanent = for_environment and number != errno.EAGAIN
    assert pool.unstartable == (("blue", pool.problem) if permanent else None)
    assert pool._retry_at == world.now + runner_pool.FIRST_DELAY
    world.errors = [ValueError("embedded null byte")]
    world.now = pool._retry_at
    world.fill(pool)
    assert pool._retry_at == world.now + 2 * runner_pool.FIRST_DELAY and not pool._requested
    world.errors = [OSError(number, "nor this one")]
    world.now = pool._retry_at
    world.fill(pool)
    assert not pool.slots and "nor this one" in pool.problem


def test_a_runner_that_takes_too_long_to_start_is_killed(world: World) -> None:
    pool = world.pool(2, ready=False)
    pool.slots[1].ready()
    world.now += runner_pool.START_TIMEOUT
    world.fill(pool)
    assert not killed(pool)
    world.now += 1
    world.fill(pool)
    assert killed(pool) == [0] and [slot.timed_out for slot in pool.slots] == [True, False]


def test_idle_runners_with_leftovers_are_renewed_after_a_while(world: World) -> None:
    pool = world.pool(5)
    for slot in pool.slots:
        slot.ready(function="f", since=world.now, leftovers="a thread")
    pool.slots[1].leftovers = ""
    pool.slots[2].state = "busy"
    pool.slots[3].parked = world.now
    pool.slots[4].kill()
    pool.size = 4
    world.now += runner_pool.LEFTOVER_SECONDS
    world.fill(pool)
    assert killed(pool) == [4]
    world.now += 0.1
    world.fill(pool)
    assert killed(pool) == [0, 4] and list(pool._requested) == [world.options]
    world.fill(pool)
    assert len(pool._requested) == 1


@pytest.mark.parametrize(("adopts", "shares"), [(True, True), (False, True), (True, False)])
def test_what_calls_leave_behind_is_looked_for_after_the_end_of_a_runner(
    world: World, monkeypatch: pytest.MonkeyPatch, adopts: bool, shares: bool
) -> None:
    looks: list[set[int]] = []
    pending = [False]
    tree = SimpleNamespace(kill_leftovers=looks.append, pending=lambda: pending[0])
    monkeypatch.setattr(runner_pool, "process_tree", tree)
    launcher: Any = SimpleNamespace(shares_processes=shares)
    pool = world.pool(2, adopts_orphans=adopts, launcher=launcher)
    assert not looks
    gone(pool, pool.slots[0])
    world.fill(pool)
    assert looks == ([{1001}] if adopts and shares else [])
    looks.clear()
    world.now += runner_pool.CLEANUP_SECONDS
    world.fill(pool)
    assert not looks
    pending[0] = True
    world.fill(pool)
    assert looks == ([{1000, 1001}] if adopts and shares else [])


def test_the_end_of_a_pool_waits_a_moment_for_its_runners(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(call_directories, "wait", waits.append)
    closed: list[float] = []
    groups: Any = SimpleNamespace(close=lambda patience: closed.append(patience))
    pool = world.pool(3, cgroups=groups)
    slots = list(pool.slots)
    slots[0].how = "stopped"
    slots[2].end = lambda: setattr(slots[2], "ends", 1)  # it runs functions registered with atexit
    world.sleeps = [lambda: setattr(slots[1], "how", "stopped")]
    began = world.now
    pool.shut_down()
    assert pool.slots == slots[2:] and all(slot.ends == 1 and slot.retiring for slot in slots)
    assert slots[2].process.killed
    assert 2.0 <= world.now - began < 2.1 and not pool.problem
    assert waits == [2.0] and closed == [1.0]
    pool = world.pool(1)
    pool.slots[0].how = "stopped"
    began = world.now
    pool.shut_down()
    assert not pool.slots and world.now - began < 0.1


def test_parked_runners_expire(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parking, "PARKED_SECONDS", 5.0)
    pool = world.pool(1, warm_runners=4)
    old = FakeSlot(0, world.options).ready(function="f")
    old.parked = world.now
    pool.slots.append(old)
    world.now += 4.0
    world.fill(pool)
    assert not old.process.killed
    world.now += 2.0
    world.fill(pool)
    assert old.process.killed and not pool.slots[0].process.killed
