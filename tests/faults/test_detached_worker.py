"""A worker started with --detach is started again if it ends unexpectedly, but not after ``stop``."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.broker import running_broker
from tests.support.embedded import endpoint_command, environment, gone, processes_of
from tests.support.wait import wait_until
from tests.unit.endpoint_worker.node.test_worker import Site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with running_broker(tmp_path) as url:
        site = Site(tmp_path, url)
        try:
            yield site
        finally:
            site.close()
            for process in processes_of(site.directory.path):
                process.kill()


def command(site: Site, *words: str) -> str:
    run = subprocess.run(
        endpoint_command(*words),
        env=environment(UMBEL_HOME=str(site.home)),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def only(site: Site) -> int:
    """Process id of the only node, 0 if none runs."""
    return next(iter(site.directory.running().values()), 0)


def start(site: Site) -> tuple[int, int]:
    """Start the worker; return its process id and that of its keeper."""
    assert "is running as process" in command(site, "start", "lab", "--detach")
    [node] = site.directory.running()
    pid, keeper = only(site), site.directory.keeper_of(node)
    assert pid != keeper and psutil.Process(pid).ppid() == keeper
    return pid, keeper


def test_a_killed_worker_is_started_again_and_a_stopped_one_is_not(site: Site) -> None:
    pid, keeper = start(site)
    assert site.value(os.getppid) == pid
    os.kill(pid, signal.SIGKILL)
    second = wait_until(
        lambda: (new := only(site)) not in (0, pid, keeper) and new, 20, what="another worker"
    )
    assert site.value(os.getppid) == second
    [node] = site.directory.running()
    assert f"process {second}" in command(site, "stop", "lab")
    assert only(site) == 0 and all(gone(process) for process in processes_of(site.directory.path))
    with site.directory.lock(node):
        pass  # it is free again


def test_a_worker_that_waits_for_its_next_start_can_be_stopped(site: Site) -> None:
    pid, keeper = start(site)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: only(site) == keeper, 10, what="the pause before the next start")
    command(site, "stop", "lab")
    assert only(site) == 0 and all(gone(process) for process in processes_of(site.directory.path))


def test_a_worker_ends_in_an_orderly_way_without_its_keeper(site: Site) -> None:
    pid, keeper = start(site)
    os.kill(keeper, signal.SIGKILL)
    assert site.value(os.getppid) == pid
    command(site, "stop", "lab")
    assert only(site) == 0 and all(gone(process) for process in processes_of(site.directory.path))
