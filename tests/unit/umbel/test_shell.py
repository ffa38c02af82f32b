"""Commands as functions."""

from __future__ import annotations

import os
import pickle
import time

import pytest

from tests.support import scripts
from umbel import MPIFunction, ShellFunction, ShellResult
from umbel.shell import TIMED_OUT, ShellError
from umbel.testing import LocalService


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_values_never_become_commands(tmp_path):
    evil = "x; touch owned $(touch owned) `touch owned` ' \" \n|touch owned"
    result = ShellFunction("printf %s {text}", cwd=tmp_path)(text=evil)
    assert result.stdout == evil
    assert not (tmp_path / "owned").exists()


def test_lists_become_words_and_braces_stay():
    result = ShellFunction("for f in {files}; do echo ${{f}}; done")(files=["a b", "c;d"])
    assert result.stdout == "a b\nc;d\n"


def test_numbers_are_formatted():
    assert ShellFunction("echo {x:.2f}")(x=3.14159).stdout == "3.14\n"


def test_missing_argument_is_named():
    with pytest.raises(ShellError, match="'ligand'"):
        ShellFunction("dock {ligand}")()


def test_failure_is_a_result_and_check_raises():
    result = ShellFunction("echo good; echo bad >&2; exit 3")()
    assert (result.returncode, result.stdout, result.stderr, result.ok) == (3, "good\n", "bad\n", False)
    with pytest.raises(ShellError, match="code 3: bad"):
        result.check()


def test_timeout_ends_the_whole_group(tmp_path):
    shell = ShellFunction(
        "sh -c 'trap \"\" TERM; sleep 60' & echo $! > pid; sleep 60", timeout=0.3, cwd=tmp_path
    )
    began = time.monotonic()
    result = shell()
    assert result.returncode == TIMED_OUT and result.timed_out
    assert time.monotonic() - began < 10
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 5
    while _alive(pid):
        assert time.monotonic() < deadline, "a process of the command's group is left"


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_what_the_shell_started_has_time_to_end_in_good_order(tmp_path):
    """As srun needs to have its ranks on other nodes ended; the shell itself dies at once."""
    orderly = "trap 'sleep 0.5; echo all > ended; exit' TERM; echo > ready; while :; do sleep 0.05; done"
    result = ShellFunction(f'sh -c "{orderly}"; true', timeout=1.0, cwd=tmp_path)()
    assert result.timed_out and (tmp_path / "ready").exists()
    assert (tmp_path / "ended").read_text() == "all\n"


def test_what_the_command_left_in_the_background_is_ended(tmp_path):
    ShellFunction("sleep 60 & echo $! > pid", cwd=tmp_path)()
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 5
    while _alive(pid):
        assert time.monotonic() < deadline, "a background process is left"


def test_output_files_keep_all_and_snippets_the_last_lines(tmp_path):
    shell = ShellFunction("seq {n}", stdout="out-{n}.txt", snippet_lines=2, cwd=tmp_path)
    result = shell(n=5000)
    assert result.stdout == "4999\n5000\n"
    assert result.stdout_file == str(tmp_path / "out-5000.txt")
    assert len((tmp_path / "out-5000.txt").read_text().splitlines()) == 5000


def test_endless_output_comes_back_bounded():
    result = ShellFunction("head -c 3000000 /dev/zero | tr '\\0' x")()
    assert len(result.stdout) <= 256 * 1024


def test_environment_and_folder(tmp_path):
    shell = ShellFunction("echo $COLOUR; pwd", env={"COLOUR": "green"}, cwd=tmp_path / "new")
    assert shell().stdout == f"green\n{tmp_path / 'new'}\n"
    result = ShellFunction("touch here; pwd")()
    assert not os.path.exists(result.cwd)
    kept = ShellFunction("touch here", keep=True)()
    assert os.listdir(kept.cwd) == ["here"]


def test_runs_through_an_executor():
    with LocalService() as service, service.executor() as executor:
        future = executor.submit(ShellFunction("echo {x}"), x=1)
        assert future.result(20).stdout == "1\n"


def test_survives_pickling():
    shell = pickle.loads(pickle.dumps(ShellFunction("echo {x}", timeout=5)))
    assert isinstance(shell(x=2), ShellResult)


def test_mpi_line_by_launcher(monkeypatch):
    monkeypatch.delenv("UMBEL_MPI_LAUNCHER", raising=False)
    mpi = MPIFunction("simulate {case}", ranks=8, nodes=2, launcher="srun")
    assert mpi.line(case="a b") == "srun -n 8 -N 2 /bin/sh -c 'simulate '\"'\"'a b'\"'\"''"
    mpi = MPIFunction("simulate", ranks=8, nodes=2, launcher="/opt/mpi/bin/mpiexec --oversubscribe")
    assert mpi.line() == "/opt/mpi/bin/mpiexec --oversubscribe -n 8 --map-by ppr:4:node /bin/sh -c simulate"
    monkeypatch.setenv("UMBEL_MPI_LAUNCHER", "aprun -q")
    assert MPIFunction("simulate", ranks=3).line() == "aprun -q -n 3 /bin/sh -c simulate"


def test_mpi_runs_as_many_ranks_as_asked(tmp_path, monkeypatch):
    # a launcher of our own: starts the command after "-n N" N times
    loop = 'shift; n=$1; shift\nwhile [ $n -gt 0 ]; do "$@"; n=$((n-1)); done'
    launcher = scripts.write(tmp_path / "launch", loop)
    monkeypatch.setenv("UMBEL_MPI_LAUNCHER", str(launcher))
    assert MPIFunction("echo {x} $((1+1))", ranks=3)(x="a b").stdout == "a b 2\n" * 3


def test_mpi_without_a_launcher_says_what_to_do(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    for name in ("UMBEL_MPI_LAUNCHER", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ShellError, match="UMBEL_MPI_LAUNCHER"):
        MPIFunction("x", ranks=2)()
