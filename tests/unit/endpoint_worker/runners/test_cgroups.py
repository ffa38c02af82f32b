"""Memory limits by control groups: over real ones where this account may make some, and over drawn ones."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from endpoint_worker.runners import cgroups
from endpoint_worker.runners.cgroups import RUNNER, WORKER, Cgroups, find
from tests.unit.endpoint_worker.bench import Bench, statuses

MIB = 1 << 20


@pytest.fixture
def place() -> Cgroups:
    found = find()
    if found is None:
        pytest.skip("this account may make no control groups that limit memory")
    return found


@pytest.fixture
def bench(tmp_path: Path, place: Cgroups) -> Iterator[Bench]:
    with Bench(tmp_path, cgroups=place) as made:
        yield made
    assert not list(place.parent.glob(f"{RUNNER}{os.getpid()}-*"))


def fill(size: int) -> int:
    return len(bytearray(b"x") * size)


def family(count: int, size: int) -> list[int]:
    """Processes that hold memory at the same time: their exit codes."""
    code = f"held = bytearray(b'x') * {size}; print(flush=True); input()"
    held = [
        subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(count)
    ]
    for process in held:
        assert process.stdout is not None
        process.stdout.readline()
    for process in held:
        process.communicate(b"\n")
    return [process.returncode for process in held]


def reserve(size: int) -> int:
    with mmap.mmap(-1, size) as area:
        return len(area)


def test_a_call_over_its_memory_ends_and_the_next_one_has_its_own(bench: Bench) -> None:
    (small,) = bench.run(fill, [(MIB,)], memory=200 * MIB)
    (large,) = bench.run(fill, [(800 * MIB,)], memory=200 * MIB)
    assert statuses([small, large]) == ["succeeded", "MEMORY_LIMIT"]
    assert "`memory`" in (large.message or "")
    assert statuses(bench.run(fill, [(300 * MIB,)])) == ["succeeded"]
    assert statuses(bench.run(fill, [(300 * MIB,)], memory=800 * MIB)) == ["succeeded"]


def test_what_a_call_starts_counts_and_what_it_only_reserves_does_not(bench: Bench) -> None:
    assert statuses(bench.run(family, [(3, 100 * MIB)], memory=200 * MIB)) == ["MEMORY_LIMIT"]
    assert statuses(bench.run(family, [(3, 10 * MIB)], memory=200 * MIB)) == ["succeeded"]
    assert statuses(bench.run(reserve, [(1 << 30,)], memory=200 * MIB)) == ["succeeded"]
    # more than the system has is refused before any of it is used
    assert statuses(bench.run(fill, [(1 << 50,)], memory=200 * MIB)) == ["MEMORY_LIMIT"]


def test_a_call_that_kills_its_runner_is_not_over_its_memory(bench: Bench) -> None:
    (outcome,) = bench.run(lambda: os.kill(os.getpid(), 9), memory=200 * MIB)
    assert outcome.status == "lost"


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A drawn system: this process is in the group ``/lab`` of version 2, which has the memory controller."""
    own = tmp_path / "cgroup" / "lab"
    (tmp_path / "proc" / "self").mkdir(parents=True)
    own.mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/lab\n")
    (tmp_path / "proc/self/mounts").write_text(f"cgroup2 {tmp_path}/cgroup cgroup2 rw,nosuid 0 0\n")
    (own / "cgroup.controllers").write_text("cpu memory pids\n")
    (own / "cgroup.subtree_control").write_text("\n")
    (own / "cgroup.procs").write_text(f"{os.getpid()}\n")
    monkeypatch.setattr(cgroups, "PROC", tmp_path / "proc")
    make = Path.mkdir

    def drawn(folder: Path, *args: int, **more: bool) -> None:
        make(folder, *args, **more)
        if folder.name.startswith(RUNNER):
            (folder / "memory.max").write_text("max\n")

    monkeypatch.setattr(Path, "mkdir", drawn)
    return own


def test_version_2_steps_down_and_limits_memory_without_swap(system: Path) -> None:
    found = find()
    assert found is not None and (found.parent, found.version) == (system, 2)
    assert (system / WORKER / "cgroup.procs").read_text() == str(os.getpid())
    assert (system / "cgroup.subtree_control").read_text() == "+memory"
    group = found.group()
    assert group is not None and group.enter()[-1] == str(group.directory)
    assert (group.directory / "memory.swap.max").read_text() == "0"
    assert (group.directory / "memory.oom.group").read_text() == "1"
    (group.directory / "memory.events").write_text("low 0\nmax 9\noom 3\noom_kill 2\n")
    assert group.limit(5 * MIB) and (group.directory / "memory.max").read_text() == str(5 * MIB)
    assert not group.exceeded()
    (group.directory / "memory.events").write_text("low 0\nmax 9\noom 3\noom_kill 3\n")
    assert group.exceeded()
    assert group.limit(None) and (group.directory / "memory.max").read_text() == "max"
    assert not group.exceeded()


def test_a_worker_that_has_stepped_down_finds_the_same_place_again(system: Path) -> None:
    (system.parents[1] / "proc/self/cgroup").write_text(f"0::/lab/{WORKER}\n")
    (system / "cgroup.subtree_control").write_text("memory\n")
    found = find()
    assert found is not None and found.parent == system


def test_a_group_that_others_live_in_or_without_memory_is_left_alone(system: Path) -> None:
    (system / "cgroup.procs").write_text(f"{os.getpid()}\n{os.getppid()}\n")
    assert find() is None and not (system / WORKER).exists()
    (system / "cgroup.procs").write_text(f"{os.getpid()}\n")
    (system / "cgroup.controllers").write_text("cpu pids\n")
    assert find() is None
