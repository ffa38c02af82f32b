"""MPI commands through the SDK, started by a real launcher on an endpoint."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.embedded import Embedded, pids_with
from tests.support.wait import wait_until
from umbel import MPIFunction

#: Open MPI refuses to be root's, and to start more ranks than it counts processors, unless it is told.
LAUNCHER = "mpiexec --allow-run-as-root --oversubscribe"
#: Ranks of these tests sleep so long: nobody else does.
STRAY = "86398.375"
#: Adds up the ranks' numbers through MPI itself.
PROGRAM = """
import ctypes
mpi = ctypes.CDLL("libmpi.so.40", mode=ctypes.RTLD_GLOBAL)
handle = lambda name: ctypes.c_void_p(ctypes.addressof(ctypes.c_char.in_dll(mpi, name)))
mpi.MPI_Init(None, None)
rank, total = ctypes.c_int(), ctypes.c_int()
mpi.MPI_Comm_rank(handle("ompi_mpi_comm_world"), ctypes.byref(rank))
what = handle("ompi_mpi_int"), handle("ompi_mpi_op_sum"), handle("ompi_mpi_comm_world")
mpi.MPI_Allreduce(ctypes.byref(rank), ctypes.byref(total), 1, *what)
print(f"rank {rank.value} total {total.value}")
mpi.MPI_Finalize()
"""

pytestmark = pytest.mark.skipif(not shutil.which("mpiexec.openmpi"), reason="wants Open MPI's mpiexec")


@pytest.fixture(scope="module")
def umbel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    with Embedded(tmp_path_factory.mktemp("mpi"), environ={"PYTHONUNBUFFERED": "1"}) as embedded:
        yield embedded


def test_ranks_talk_to_each_other(umbel: Embedded, tmp_path: Path) -> None:
    program = tmp_path / "total of ranks.py"
    program.write_text(PROGRAM)
    total = MPIFunction("{python} {program}", ranks=3, nodes=1, launcher=LAUNCHER)
    with umbel.executor(cores=2) as executor:
        result = executor.submit(total, python=sys.executable, program=program).result(timeout=60)
    assert result.ok, result
    assert sorted(result.stdout.splitlines()) == [f"rank {rank} total 3" for rank in range(3)]


def test_a_launcher_that_runs_too_long_ends_with_all_ranks(umbel: Embedded) -> None:
    sleeper = MPIFunction("sleep {seconds}", ranks=2, launcher=LAUNCHER, timeout=2.0)
    with umbel.executor(cores=2) as executor:
        result = executor.submit(sleeper, seconds=STRAY).result(timeout=60)
    assert result.timed_out
    wait_until(lambda: not pids_with(STRAY), 10, what="the end of all ranks")


def test_a_cancelled_call_ends_with_all_ranks(umbel: Embedded) -> None:
    sleeper = MPIFunction("sleep {seconds}", ranks=2, launcher=LAUNCHER)
    with umbel.executor(cores=2) as executor:
        future = executor.submit(sleeper, seconds=STRAY)
        wait_until(lambda: len(pids_with(STRAY)) >= 2, 30, what="both ranks")
        assert future.cancel()
    wait_until(lambda: not pids_with(STRAY), 10, what="the end of all ranks")
