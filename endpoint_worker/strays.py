"""Processes that calls started and that got away from their runner.

A child that made a session of its own, or whose parent ended, is not reached through its runner's process
group. Linux gives such orphans to the nearest ancestor that asked for them: the runner while it lives, then
the worker. Whatever child the worker has that is no runner is a stray.
"""

from __future__ import annotations

import os
import signal

import psutil


def descendants(pid: int) -> list[int]:
    """Process ids of everything below a process."""
    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return []


def kill(pids: list[int]) -> None:
    """Kill processes; those that are gone already are fine."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass


def kill_strays(runners: set[int]) -> int:
    """Kill and reap every child of this process that is not in ``runners``; return how many there were."""
    strays = [child.pid for child in psutil.Process().children() if child.pid not in runners]
    for pid in strays:
        kill(descendants(pid))
        kill([pid])
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            pass
    return len(strays)
