"""Processes started by calls that have escaped from their runner.

A child with its own session, or whose parent has ended, is not reached through its runner's process group.
Linux reparents orphans to the nearest ancestor that is a subreaper: the runner while it is alive, then the
worker. A child of the worker that is neither a runner nor a program of the worker is a leftover.

Slurm's ``srun`` consists of two processes. What it started on other nodes is not a descendant here: when the
first process is killed, the second one makes Slurm end the step on all its nodes, and exits. So the second
one is not killed together with the first, but later if it still exists.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psutil

#: Seconds that the second process of an ``srun`` gets to end its step.
SRUN_SECONDS = 10.0
#: Spared processes: process id → deadline (monotonic clock).
_spared: dict[int, float] = {}
#: Programs that the worker itself has started, registered before other threads can see them.
_exempt: set[int] = set()
_starting = threading.Lock()


@contextmanager
def exempt_program(argv: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program that is not treated as a leftover within the block, which must wait for its end.

    ``options``: those of ``subprocess.Popen``. Raises OSError.
    """
    with _starting:
        process = subprocess.Popen(argv, **options)
        _exempt.add(process.pid)
    try:
        yield process
    finally:
        _exempt.discard(process.pid)


def descendants(pid: int) -> list[int]:
    """Process ids of all descendants of a process."""
    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except (psutil.Error, OSError):  # OSError: no descriptor is left to read /proc
        return []


def kill(pids: Iterable[int]) -> None:
    """Kill processes; processes that no longer exist are ignored."""
    wanted = list(pids)
    spared = _second_srun_processes(wanted)
    _spared.update(dict.fromkeys(spared, time.monotonic() + SRUN_SECONDS))
    for pid in wanted:
        if pid not in spared:
            _kill(pid)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def _second_srun_processes(pids: list[int]) -> set[int]:
    """Return those that are the second process of an ``srun`` whose first process is also in ``pids``."""
    among, found = set(pids), set()
    for pid in pids:
        try:
            process = psutil.Process(pid)
            if process.name() == "srun" and process.ppid() in among:
                if psutil.Process(process.ppid()).name() == "srun":
                    found.add(pid)
        except (psutil.Error, OSError):
            continue
    return found


def pending() -> bool:
    """Return whether spared processes still have time left or are still to be killed."""
    return bool(_spared)


def kill_leftovers(runners: set[int]) -> int:
    """Kill and reap all children of this process that are not in ``runners``; return their number.

    Programs that the worker itself runs (``exempt_program``) are excluded.
    """
    now = time.monotonic()
    spared = {pid for pid, until in _spared.items() if until > now}
    with _starting:
        kept = runners | _exempt
        try:
            leftovers = [child.pid for child in psutil.Process().children() if child.pid not in kept]
        except (psutil.Error, OSError):
            leftovers = []  # no descriptor is left to read /proc: at the next look
    for pid in leftovers:
        if pid not in spared:
            kill([*descendants(pid), pid])
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            pass
    for pid in [pid for pid in _spared if pid not in spared or not psutil.pid_exists(pid)]:
        if pid not in spared:
            _kill(pid)  # wherever it runs: its time is over
        del _spared[pid]
    return len(leftovers)
