"""The workloads of W9, and the communication with a peer's script."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

#: The burst: CALLS calls of SECONDS seconds, on at most BLOCKS jobs of SLOTS slots.
CALLS, SECONDS, BLOCKS, SLOTS = 240, 0.5, 2, 2
#: Seconds without work after which Umbel and Parsl end a block.
IDLE = 10
#: Blocks of the third work, and seconds for which commands are counted.
MANY, WATCHED = 100, 120


def nap(seconds: float) -> float:
    """Sleep, and return the time."""
    import time

    time.sleep(seconds)
    return seconds


def wait_empty(timeout: float = 300.0) -> None:
    """Wait until this account has no jobs."""
    wait_jobs(lambda count: count == 0, timeout)


def wait_jobs(wanted: Callable[[int], bool], timeout: float = 300.0) -> None:
    """Wait until the number of this account's jobs is ``wanted``. Raises TimeoutError.

    The absolute path of squeue bypasses the wrapper that counts commands.
    """
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        done = subprocess.run(["/usr/bin/squeue", "-h", "--me", "-o", "%i"], capture_output=True, text=True)
        if done.returncode == 0 and wanted(len(done.stdout.split())):
            return
        time.sleep(0.5)
    raise TimeoutError("the number of jobs is not as expected")


def measure(submit: Callable[[float], Any], rounds: int, report: Callable[..., None]) -> None:
    """Run the first two works. ``submit``: submits a call of ``nap`` and returns a future."""
    for _ in range(rounds):
        began = time.monotonic()
        assert submit(0.0).result() == 0.0
        report(work="first", seconds=time.monotonic() - began)
        wait_empty()
    report(work="mark")
    began = time.monotonic()
    assert [future.result() for future in [submit(SECONDS) for _ in range(CALLS)]] == [SECONDS] * CALLS
    report(work="burst", seconds=time.monotonic() - began)
    wait_empty()
    report(work="gone")


def report(**record: Any) -> None:
    """Send an event to the benchmark, as a line of JSON."""
    print(json.dumps(record), flush=True)


def wait_for_line() -> None:
    """Wait for a line from the benchmark, which allows the script to continue."""
    sys.stdin.readline()
