"""Processes that calls started and that got away from their runner.

A child that made a session of its own, or whose parent ended, is not reached through its runner's process
group. Linux gives such orphans to the nearest ancestor that asked for them: the runner while it lives, then
the worker. Whatever child the worker has that is no runner is a stray.

Slurm's ``srun`` is two processes. What it started on other nodes is nobody's child here: when the first
process is killed, the second one has Slurm end the step on all its nodes, and ends. So it is not killed with
the first, but a little later if it is still there.
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

#: Seconds that the second process of an ``srun`` has for its work.
SRUN_SECONDS = 10.0
#: Those that are at it: process id → until when (monotonic clock).
_spared: dict[int, float] = {}
#: Programs that the worker itself has started, from before anybody can see them.
_exempt: set[int] = set()
_starting = threading.Lock()


@contextmanager
def exempt_program(argv: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program that is no stray as long as the block lasts, which waits for its end.

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
    """Process ids of everything below a process."""
    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return []


def kill(pids: Iterable[int]) -> None:
    """Kill processes; those that are gone already are fine."""
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
    """Those that are the second process of an ``srun`` whose first one is among them, too."""
    among, found = set(pids), set()
    for pid in pids:
        try:
            process = psutil.Process(pid)
            if process.name() == "srun" and process.ppid() in among:
                if psutil.Process(process.ppid()).name() == "srun":
                    found.add(pid)
        except psutil.Error:
            continue
    return found


def pending() -> bool:
    """Whether there are spared processes whose time is not over, or that are still to be killed."""
    return bool(_spared)


def kill_leftovers(runners: set[int]) -> int:
    """Kill and reap every child of this process that is not in ``runners``; return how many there were.

    Programs that the worker itself runs (``exempt_program``) are none of them.
    """
    now = time.monotonic()
    spared = {pid for pid, until in _spared.items() if until > now}
    with _starting:
        kept = runners | _exempt
        leftovers = [child.pid for child in psutil.Process().children() if child.pid not in kept]
    for pid in leftovers:
        if pid not in spared:
            kill([*descendants(pid), pid])
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            pass
    for pid in [pid for pid in _spared if pid not in spared or not psutil.pid_exists(pid)]:
        if pid not in spared:
            _kill(pid)  # wherever it is: its time is over
        del _spared[pid]
    return len(leftovers)
