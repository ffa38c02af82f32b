"""Operating system processes: exit descriptions, waiting for the end, and killing process trees."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence

import psutil

#: Time for a killed process to disappear, seconds.
KILL_GRACE = 1.0


def describe(status: int) -> str:
    """Describe how a process with return code ``status`` (negative: minus the signal) ended."""
    if status >= 0:
        return f"exit code {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"


def kill_processes(processes: Sequence[psutil.Process]) -> None:
    """Kill processes, unless their pids were reused; wait briefly until they are gone."""
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            pass
    wait_for_end(processes, KILL_GRACE)


def wait_for_end(processes: Sequence[psutil.Process], timeout: float) -> list[psutil.Process]:
    """Wait up to ``timeout`` seconds for processes, children or not; return those that still run."""
    deadline = time.monotonic() + timeout
    while alive := [process for process in processes if not ended(process)]:
        if time.monotonic() >= deadline:
            break
        time.sleep(0.01)
    return alive


def ended(process: psutil.Process) -> bool:
    """Return whether a process has ended, even if its parent has not reaped it yet."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE or not process.is_running()
    except psutil.NoSuchProcess:
        return True


def process_tree(pid: int | None) -> list[psutil.Process]:
    """Return the process and its current descendants."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
