"""What is measured, and how a peer's script is spoken with."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

#: The burst: so many calls of so many seconds, on at most BLOCKS jobs of SLOTS slots.
CALLS, SECONDS, BLOCKS, SLOTS = 240, 0.5, 2, 2
#: Seconds without work after which Umbel and Parsl let a block go.
IDLE = 10
#: Blocks of the third work, and seconds for which they are watched.
MANY, WATCHED = 100, 120


def nap(seconds: float) -> float:
    """A call: sleep, and hand the time back."""
    import time

    time.sleep(seconds)
    return seconds


def wait_empty(timeout: float = 300.0) -> None:
    """Wait until this account has no job. The path is whole, so that it is not counted."""
    wait_jobs(lambda count: count == 0, timeout)


def wait_jobs(wanted: Callable[[int], bool], timeout: float = 300.0) -> None:
    """Wait until the number of this account's jobs is as wanted. Raises TimeoutError."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        done = subprocess.run(["/usr/bin/squeue", "-h", "--me", "-o", "%i"], capture_output=True, text=True)
        if done.returncode == 0 and wanted(len(done.stdout.split())):
            return
        time.sleep(0.5)
    raise TimeoutError("the jobs are not as they should be")


def measure(submit: Callable[[float], Any], rounds: int, say: Callable[..., None]) -> None:
    """The first two works through a function that submits a nap and returns a future."""
    for _ in range(rounds):
        began = time.monotonic()
        assert submit(0.0).result() == 0.0
        say(work="first", seconds=time.monotonic() - began)
        wait_empty()
    say(work="mark")
    began = time.monotonic()
    assert [future.result() for future in [submit(SECONDS) for _ in range(CALLS)]] == [SECONDS] * CALLS
    say(work="burst", seconds=time.monotonic() - began)
    wait_empty()
    say(work="gone")


def say(**record: Any) -> None:
    """Tell the benchmark something, as a line of JSON."""
    print(json.dumps(record), flush=True)


def listen() -> None:
    """Wait until the benchmark says that it goes on."""
    sys.stdin.readline()
