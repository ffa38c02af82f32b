"""Blocks without a batch system: real processes, on one machine and on several that are played by folders."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from federation.provision.connection.shell import CommandResult, LocalShell, Shell, Unreachable
from federation.provision.planning.model import BlockState
from federation.provision.schedulers.base import Job, JobSpec, LimitReached, NoAnswer
from federation.provision.schedulers.processes import Hosts, Processes
from tests.support.wait import wait_until

A, B = "umbel-0123abcd-0000000a", "umbel-0123abcd-0000000b"


class Yard:
    """A folder for blocks; everything that was started in it is ended in the end."""

    def __init__(self, folder: Path, max_running: int = 1):
        self.folder = folder / "blocks"
        self.shell = LocalShell(folder)
        self.system = Processes(str(self.folder), max_running)

    def spec(self, name: str, script: str, **more: object) -> JobSpec:
        return JobSpec(name, ("sh", "-c", script), str(self.folder), **more)  # type: ignore[arg-type]

    def state(self, name: str) -> BlockState | None:
        jobs = {job.name: job for job in self.system.jobs(self.shell, ())}
        return jobs[name].state if name in jobs else None


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    yard = Yard(tmp_path)
    yield yard
    for _ in range(2):
        yard.system.cancel(yard.shell, [A, B])
    for name in (A, B):
        wait_until(lambda name=name: yard.state(name) is not BlockState.RUNNING)  # type: ignore[misc]


def test_a_block_runs_and_ends_by_itself(yard: Yard) -> None:
    assert yard.system.jobs(yard.shell, ()) == []
    id = yard.system.submit(yard.shell, yard.spec(A, 'echo hello "$@"; exit 3'))
    wait_until(lambda: yard.state(A) is BlockState.FAILED)
    (job,) = yard.system.jobs(yard.shell, ())
    assert (job.id, job.reason) == (id, "exit code 3")
    said = yard.shell.read(yard.spec(A, "").out).decode()
    assert said.startswith(f"hello {A} --walltime-end ") or said.startswith("hello")


def test_a_block_is_ended_with_its_children(yard: Yard, tmp_path: Path) -> None:
    script = f"sleep 77 & echo $! > {tmp_path}/child; wait"
    yard.system.submit(yard.shell, yard.spec(A, script))
    wait_until(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text().strip())
    assert yard.state(A) is BlockState.RUNNING
    with pytest.raises(LimitReached, match="1 blocks"):
        yard.system.submit(yard.shell, yard.spec(B, "true"))
    yard.system.cancel(yard.shell, [A])
    wait_until(lambda: yard.state(A) is BlockState.CANCELLED)
    child = int((tmp_path / "child").read_text())
    wait_until(lambda: not _runs(child))


def test_a_block_that_does_not_listen_is_killed_the_second_time(yard: Yard) -> None:
    yard.system.submit(yard.shell, yard.spec(A, "trap '' TERM; : > deaf; while :; do sleep 0.1; done"))
    wait_until((yard.folder / "deaf").exists)
    yard.system.cancel(yard.shell, [A])
    assert yard.state(A) is BlockState.RUNNING
    yard.system.cancel(yard.shell, [A])
    wait_until(lambda: yard.state(A) is BlockState.FAILED)


def test_a_block_is_stopped_at_its_walltime(yard: Yard) -> None:
    yard.system.submit(yard.shell, yard.spec(A, "exec sleep 60", walltime=1.0))
    wait_until(lambda: yard.state(A) is BlockState.CANCELLED)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Silent(LocalShell):
    """A host that can fall silent."""

    silent = False

    def run(self, words, **options) -> CommandResult:  # type: ignore[no-untyped-def]
        if self.silent:
            raise Unreachable("no route to host")
        return super().run(words, **options)


def test_hosts_take_turns_and_a_silent_one_is_not_taken_for_empty(tmp_path: Path) -> None:
    shells = {name: Silent(tmp_path / name) for name in ("h1", "h2")}
    for name in shells:
        (tmp_path / name).mkdir()
    shell: Shell = shells["h1"]
    system = Hosts(["h1", "h2"], shells.__getitem__, "blocks")
    spec = [JobSpec(name, ("sh", "-c", "exec sleep 60"), "blocks") for name in (A, B)]
    ids = [system.submit(shell, each) for each in spec]
    try:
        assert ids == [f"h1/{A}", f"h2/{B}"]
        with pytest.raises(LimitReached, match="host"):
            system.submit(shell, JobSpec("umbel-0123abcd-0000000c", ("true",), "blocks"))
        shells["h2"].silent = True
        states = {job.id: job.state for job in system.jobs(shell, ids)}
        assert states == {ids[0]: BlockState.RUNNING, ids[1]: BlockState.UNKNOWN}
        shells["h1"].silent = True
        with pytest.raises(NoAnswer):
            system.jobs(shell, ids)
    finally:
        for each in shells.values():
            each.silent = False
        system.cancel(shell, ids)

    def ended() -> list[Job]:
        return [job for job in system.jobs(shell, ids) if job.state is not BlockState.RUNNING]

    wait_until(lambda: len(ended()) == 2)
    assert os.listdir(tmp_path / "h1" / "blocks")
