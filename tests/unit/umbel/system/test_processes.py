"""A process that ends with its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.architecture.sources import PYTHONPATH
from tests.support.wait import wait_until
from umbel.system.processes import end_with_parent

#: Starts a child that ends with it, prints the child's pid, then waits for the end of its input.
PARENT = """
import os, subprocess, sys
from functools import partial
from umbel.system.processes import end_with_parent
child = subprocess.Popen(["sleep", "60"], preexec_fn=partial(end_with_parent, os.getpid()))
print(child.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_a_child_ends_with_a_parent_that_is_killed() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
    ) as parent:  # fmt: skip
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
        parent.wait(10)
    wait_until(lambda: _ended(child), what="the child ended with its parent")


def _ended(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_process_whose_parent_has_ended_already_exits() -> None:
    pid = os.fork()
    if pid == 0:
        end_with_parent(1 if os.getppid() != 1 else 2, signal.SIGTERM)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
