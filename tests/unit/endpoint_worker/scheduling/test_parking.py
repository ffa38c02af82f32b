"""Runners serve one user each, and a few idle ones stay warm beyond the slots, for a while."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from endpoint_worker.config.hardware import Layout
from endpoint_worker.runners import cgroups
from endpoint_worker.runners.options import RunnerOptionsBuilder
from endpoint_worker.runners.slot import Slot
from endpoint_worker.scheduling import parking, runner_pool
from tests.support.wait import wait_until
from tests.unit.endpoint_worker.bench import Bench, Running, make_bundle
from umbel.protocol.messages import Status
from umbel.serialize import load_result


class Users:
    """A supervisor whose bundles come from several users, as a node's do."""

    def __init__(self, bench: Bench):
        self.bench = bench
        self.pool = bench.supervisor._pool
        self._builder = RunnerOptionsBuilder(self.pool._options)

    def start(self, user: str, function: Callable[..., Any], *args: Any, **options: Any) -> Running:
        bundle, body = make_bundle(function, [args], **options)
        running = Running(self.bench, replace(bundle, user=user), body)
        running.job.options = self._builder.options(running.bundle)
        self.bench.supervisor.submit(running.job)
        return running

    def value(self, user: str, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        # a slow machine may return a bundle for which a runner does not start soon enough
        for _ in range(3):
            (outcome,) = self.start(user, function, *args, **options).wait()
            if outcome.status != Status.RETURNED:
                break
        assert outcome.status == Status.SUCCEEDED, outcome
        return load_result(outcome.payload)

    @property
    def parked(self) -> list[Slot]:
        return [slot for slot in self.pool.slots if slot.parked is not None and not slot.process.killed]

    @property
    def processes(self) -> set[int]:
        return {slot.process.pid for slot in self.pool.slots}


@pytest.fixture
def users(bench: Bench) -> Iterator[Users]:
    bench.until_idle()
    yield Users(bench)
    # nothing of a runner is left, wherever it was
    pids = Users(bench).processes
    bench.supervisor.stop()
    wait_until(lambda: not any(psutil.pid_exists(pid) for pid in pids), what="all runners have ended")


def mark(name: str) -> tuple[int, list[str]]:
    found = sys.modules["json"].__dict__.setdefault("_marks", [])
    found.append(name)
    return os.getpid(), list(found)


def pid() -> int:
    return os.getpid()


def pid_too(_: int = 1) -> int:
    return os.getpid()


def thread() -> int:
    # until the end of the process, and not of a library: it might still work for the call
    threading.Thread(target=lambda: time.sleep(300), daemon=True).start()
    return os.getpid()


def test_a_runner_never_serves_two_users(users: Users) -> None:
    seen: dict[str, list[tuple[int, list[str]]]] = {"ada": [], "grace": []}
    for _ in range(3):
        for user, found in seen.items():
            found.append(users.value(user, mark, user))
    pids = [{pid for pid, _ in found} for found in seen.values()]
    assert not pids[0] & pids[1]
    assert all(set(marks) == {user} for user, found in seen.items() for _, marks in found)
    # neither was started anew at a change
    assert [len(each) for each in pids] == [1, 1]


def test_an_unused_runner_serves_any_user(users: Users) -> None:
    before = users.processes
    assert {users.value("ada", pid)} == before
    users.bench.supervisor.replace_all()
    wait_until(lambda: not users.processes & before, what="the runner is replaced")
    users.bench.until_idle()
    # the new one was started after one of Ada
    fresh = users.processes
    assert {users.value("grace", pid)} == fresh


def test_nothing_is_parked_for_one_user(tmp_path: Path) -> None:
    with Bench(tmp_path, slots=2) as bench:
        bench.until_idle()
        users = Users(bench)
        before = users.processes
        for _ in range(5):
            users.value("ada", pid)
            users.value("ada", pid_too)
        assert users.processes == before and not users.parked


def test_functions_that_leave_threads_keep_their_runners(users: Users) -> None:
    pids = [(users.value("ada", thread), users.value("ada", pid)) for _ in range(4)]
    assert len(set(pids)) == 1 and pids[0][0] != pids[0][1]


def test_an_idle_runner_with_threads_makes_room_and_comes_back(
    users: Users, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_pool, "LEFTOVER_SECONDS", 0.0)
    first = users.value("ada", thread)
    wait_until(lambda: bool(users.parked), what="the runner is parked")
    users.bench.until_idle()
    second = users.value("grace", pid)
    assert (users.value("ada", thread), users.value("grace", pid)) == (first, second)


def test_the_number_of_parked_runners_is_limited(tmp_path: Path) -> None:
    with Bench(tmp_path, warm_runners=2) as bench:
        bench.until_idle()
        users = Users(bench)
        names = ["ada", "grace", "mary", "joan"]
        pids = [users.value(name, pid) for name in names]
        wait_until(lambda: len(users.pool.slots) == 3, what="the oldest one has ended")
        assert users.processes == set(pids[1:])
        assert [users.value(name, pid) for name in names[1:]] == pids[1:]
        assert not psutil.pid_exists(pids[0])


@pytest.mark.parametrize("options", [{"warm_runners": 0}, {"layout": Layout(accelerators=("0",))}])
def test_no_runner_is_parked_where_none_may(tmp_path: Path, options: dict[str, Any]) -> None:
    with Bench(tmp_path, **options) as bench:
        bench.until_idle()
        users = Users(bench)
        pids = [users.value(name, pid) for name in ("ada", "grace", "ada")]
        assert len(set(pids)) == 3
        assert users.processes == {pids[-1]}


def test_a_runner_with_child_processes_is_not_parked(users: Users) -> None:
    def litter() -> int:
        import subprocess

        return subprocess.Popen(["sleep", "300"], start_new_session=True).pid

    child = users.value("ada", litter)
    users.value("grace", pid)
    wait_until(lambda: not psutil.pid_exists(child), what="the child left behind is gone")
    assert not users.parked


def test_a_parked_runner_ends_after_a_while(users: Users, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = users.value("ada", pid), users.value("grace", pid)
    assert users.processes == {first, second}
    monkeypatch.setattr(parking, "PARKED_SECONDS", 0.0)
    wait_until(lambda: users.processes == {second}, what="the parked runner has ended")
    assert users.value("grace", pid) == second


def test_a_parked_runner_that_keeps_a_processor_busy_ends(users: Users) -> None:
    def spin() -> int:
        def turn() -> None:
            while True:
                pass

        threading.Thread(target=turn, daemon=True).start()
        return os.getpid()

    first, second = users.value("ada", spin), users.value("grace", pid)
    wait_until(lambda: users.processes == {second}, what="the busy runner has ended")
    assert not psutil.pid_exists(first)


def test_a_parked_runner_that_dies_is_not_missed(users: Users) -> None:
    first, second = users.value("ada", pid), users.value("grace", pid)
    psutil.Process(first).kill()
    wait_until(lambda: users.processes == {second}, what="the dead runner is removed")
    assert users.value("grace", pid) == second
    assert users.value("ada", pid) != first


def test_replacing_all_runners_includes_parked_ones(users: Users) -> None:
    before = {users.value("ada", pid), users.value("grace", pid)}
    users.bench.supervisor.replace_all()
    wait_until(lambda: not users.processes & before, what="all runners are replaced")
    assert {users.value("ada", pid), users.value("grace", pid)}.isdisjoint(before)


def test_resizing_does_not_count_parked_runners(users: Users) -> None:
    users.value("ada", pid), users.value("grace", pid)
    users.bench.supervisor.resize(2)
    wait_until(lambda: users.bench.supervisor.slots == 3, what="three slots")
    users.bench.until_idle()
    assert len(users.pool.slots) - len(users.parked) == 3
    users.bench.supervisor.resize(-2)
    wait_until(lambda: len(users.pool.slots) - len(users.parked) == 1, what="one slot")
    numbers = [slot.number for slot in users.pool.slots if slot.parked is None]
    assert len(numbers) == 1
    assert users.value("ada", pid) in users.processes


def test_draining_ends_parked_runners(users: Users) -> None:
    first, second = users.value("ada", pid), users.value("grace", pid)
    assert users.bench.supervisor.drain(5.0).wait(10)
    wait_until(lambda: users.processes == {second}, what="the parked runner has ended")
    assert not psutil.pid_exists(first)


def test_limits_and_cancellation_hold_in_a_runner_that_comes_back(users: Users) -> None:
    first = users.value("ada", pid)
    users.value("grace", pid)
    running = users.start("ada", time.sleep, 60)
    running.until_running()
    assert {slot.process.pid for slot in users.pool.slots if slot.execution is not None} == {first}
    users.bench.supervisor.cancel(call.task_id for call in running.bundle.calls)
    (outcome,) = running.wait()
    assert outcome.status == Status.SKIPPED
    users.value("ada", pid), users.value("grace", pid)
    (outcome,) = users.start("ada", time.sleep, 60, timeout=0.3).wait()
    assert (outcome.status, outcome.code) == (Status.FAILED, "TIMEOUT")


def test_control_groups_of_parked_runners_are_removed(tmp_path: Path) -> None:
    groups = cgroups.find()
    if groups is None:
        pytest.skip("no control groups here")
    with Bench(tmp_path, cgroups=groups) as bench:
        bench.until_idle()
        users = Users(bench)
        for _ in range(2):
            for user in ("ada", "grace"):
                users.value(user, pid, memory=512 * 1024 * 1024)
        directories = [slot.process.cgroup.directory for slot in users.pool.slots if slot.process.cgroup]
        assert len(directories) == 2 and all(directory.exists() for directory in directories)
    assert not any(directory.exists() for directory in directories)


def test_parking_leaks_no_descriptor(tmp_path: Path) -> None:
    with Bench(tmp_path, warm_runners=1) as bench:
        bench.until_idle()
        users = Users(bench)
        for name in ("ada", "grace", "mary"):
            users.value(name, pid)
        wait_until(lambda: len(users.pool.slots) == 2, what="the oldest one has ended")
        before = len(os.listdir("/proc/self/fd"))
        for name in ("joan", "ada", "grace"):
            users.value(name, pid)
        wait_until(lambda: len(users.pool.slots) == 2, what="the oldest one has ended")
        assert len(os.listdir("/proc/self/fd")) == before
    directory = users.pool._options.directory / "calls"
    assert not directory.exists() or not os.listdir(directory)
