"""Calls that misbehave, each in its own way, and what is expected of each."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

#: What strays sleep, in seconds: no other process sleeps for so long.
STRAY = "86397.125"
MIB = 1024 * 1024
#: Limits that a kind is run with, by name.
LIMITS: dict[str, dict[str, Any]] = {
    "": {},
    "memory": {"memory": 500 * MIB},
    "timeout": {"timeout": 1.0},
    "cpu": {"cpu": 0.5},
}


class Kind(NamedTuple):
    """A nasty kind: its code (None: it succeeds), how often it comes beside others, its limits by name."""

    code: str | None
    weight: int = 4
    limits: str = ""


KINDS: dict[str, Kind] = {"cannot_be_loaded": Kind("DESERIALIZE_ERROR")}
_ACTS: dict[str, Callable[[], Any]] = {}


def nasty(kind: str) -> Any:
    """Misbehave."""
    return _ACTS[kind]()


class Unloadable:
    """An argument that cannot be loaded; for the kind ``cannot_be_loaded``."""

    def __reduce__(self) -> Any:
        return int, ("no number",)


def _ends(code: str | None, weight: int = 4, limits: str = "") -> Callable[[Any], Any]:
    def register(act: Callable[[], Any]) -> Callable[[], Any]:
        KINDS[act.__name__] = Kind(code, weight, limits)
        _ACTS[act.__name__] = act
        return act

    return register


@_ends("TASK_ERROR")
def raises() -> None:
    raise ValueError("no such ligand")


@_ends("TASK_ERROR")
def exits() -> None:
    sys.exit(3)


@_ends("TASK_ERROR")
def interrupts() -> None:
    raise KeyboardInterrupt


@_ends("TASK_ERROR")
def recurses() -> Any:
    return (lambda again: again(again))(lambda again: again(again))


@_ends("WORKER_LOST")
def leaves() -> None:
    os._exit(7)


@_ends("WORKER_LOST")
def crashes() -> None:
    ctypes.string_at(0)


@_ends("WORKER_LOST")
def is_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@_ends("WORKER_LOST")
def kills_its_group() -> None:
    os.killpg(0, signal.SIGKILL)


@_ends("WORKER_LOST", 2)
def overflows_its_stack() -> None:
    sys.setrecursionlimit(10**9)
    cell: list[Any] = []
    cell.append(ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(lambda n: cell[0](n)))
    cell[0](0)


@_ends("MEMORY_LIMIT", limits="memory")
def takes_memory() -> int:
    return len(bytearray(8 * 1024**3))


@_ends("TIMEOUT", 2, "timeout")
def sleeps() -> None:
    time.sleep(3600)


@_ends("TIMEOUT", 2, "timeout")
def waits_for_a_child() -> int:
    return subprocess.run(["sleep", STRAY]).returncode


@_ends("TIMEOUT", 2, "cpu")
def spins() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        pass


@_ends("RESULT_NOT_SERIALIZABLE")
def returns_a_lock() -> Any:
    return threading.Lock()


@_ends("RESULT_TOO_LARGE", 2)
def returns_too_much() -> bytes:
    return os.urandom(11 * MIB)  # bytes that cannot be squeezed


@_ends(None, 1)
def shouts() -> None:
    """Write a gigabyte."""
    block = b"x" * MIB
    for _ in range(1024):
        os.write(1, block)


@_ends(None)
def prints() -> None:
    print("y" * 1_000_000)


@_ends(None)
def leaves_threads() -> None:
    threading.Thread(target=time.sleep, args=(3600,), name="nasty", daemon=False).start()


@_ends(None)
def leaves_children() -> None:
    subprocess.Popen(["sleep", STRAY])
    subprocess.Popen(["sleep", STRAY], start_new_session=True, env={})


@_ends(None)
def leaves_a_daemon() -> None:
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execve("/bin/sleep", ["sleep", STRAY], {})
        os._exit(0)


@_ends(None)
def closes_its_output() -> None:
    sys.stdout.close()
    os.close(1)
    os.close(2)


@_ends(None)
def closes_everything() -> None:
    os.closerange(0, 256)


@_ends(None)
def leaves_files_open() -> None:
    for _ in range(200):
        os.open(os.devnull, os.O_RDONLY)


@_ends(None)
def moves() -> None:
    os.chdir("/")


@_ends(None)
def spoils_signals() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGTERM])


@_ends(None)
def spoils_its_environment() -> None:
    os.environ["NASTY"] = "1"
    del os.environ["PATH"]


@_ends(None)
def returns_twice() -> None:
    os.fork()
