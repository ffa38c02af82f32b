"""MPI commands through srun inside a block of two nodes of a real Slurm."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.test_mpi import PROGRAM, STRAY
from tests.support.embedded import pids_with
from tests.support.wait import wait_until
from umbel import MPIFunction

from .cluster import Cluster, Endpoint
from .elastic import Elastic

pytestmark = pytest.mark.timeout(400)


def test_ranks_on_two_nodes(hpc: Endpoint, cluster: Cluster, service: Elastic) -> None:
    """One block of two nodes: calls on both, and ranks that talk across."""
    hpc.add(max_blocks=1, nodes_per_block=2, slots_per_node=2, slot_work=0.1, idle_time=60)
    jobs, nodes = hpc.run(80)
    assert len(jobs) == 1 and nodes == {"cn1", "cn2"}
    program = Path(cluster.account.home / "total of ranks.py")
    program.write_text(PROGRAM + "import socket; print(socket.gethostname())\n")
    total = MPIFunction(
        "/usr/bin/python3 {program}", ranks=2, nodes=2, launcher="srun --mpi=pmix", timeout=60
    )
    with service.umbel.executor(hpc.name) as executor:
        result = executor.submit(total, program=str(program)).result(timeout=120)
        assert result.ok, result
        assert sorted(result.stdout.splitlines()) == ["cn1", "cn2", "rank 0 total 1", "rank 1 total 1"]
    assert hpc.run(4)[0] == jobs, "the block goes on"


def test_ranks_end_with_their_call(hpc: Endpoint, service: Elastic) -> None:
    hpc.add(max_blocks=1, nodes_per_block=2, slots_per_node=2, slot_work=0.1, idle_time=60)
    with service.umbel.executor(hpc.name) as executor:
        _cancelled(executor)
        _timed_out(executor)


def _timed_out(executor: object) -> None:
    sleeper = MPIFunction("sleep {seconds}", ranks=2, nodes=2, timeout=6.0)
    future = executor.submit(sleeper, seconds=STRAY)  # type: ignore[attr-defined]
    wait_until(lambda: len(pids_with(STRAY)) >= 2, 30, what="both ranks")
    assert future.result(timeout=60).timed_out
    wait_until(lambda: not pids_with(STRAY), 15, what="the end of all ranks")


def _cancelled(executor: object) -> None:
    sleeper = MPIFunction("sleep {seconds}", ranks=2, nodes=2)
    future = executor.submit(sleeper, seconds=STRAY)  # type: ignore[attr-defined]
    wait_until(lambda: len(pids_with(STRAY)) >= 2, 30, what="both ranks")
    assert future.cancel()
    wait_until(lambda: not pids_with(STRAY), 15, what="the end of all ranks")
