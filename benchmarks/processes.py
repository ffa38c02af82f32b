"""Resource usage of the processes of one session, from /proc, and their termination.

A session and its processes have a mark in their environment; children with a different environment are found
through their parents. Linux only.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

#: Environment variable with the session's mark.
MARK = "UMBEL_BENCH_SESSION"
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Process:
    """A live process; ``start`` (ticks since boot) distinguishes it from later ones with the same pid.

    ``cpu``: seconds of processor time, including those of children that have ended and were waited for.
    """

    pid: int
    parent: int
    start: int
    cpu: float


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:  # it has ended, or belongs to another user
        return b""


def read_process(pid: int) -> Process | None:
    """Return the process ``pid``, or None if it has ended."""
    text = _read(f"/proc/{pid}/stat").decode("ascii", "replace")
    fields = text[text.rfind(")") + 2 :].split()
    if not fields or fields[0] == "Z":
        return None
    return Process(pid, int(fields[1]), int(fields[19]), sum(map(int, fields[11:15])) / _TICKS)


def of_session(mark: str) -> dict[int, Process]:
    """Return all live processes of a session by pid: those with its mark, and their descendants."""
    wanted = f"{MARK}={mark}".encode()
    everything = {}
    for name in os.listdir("/proc"):
        process = read_process(int(name)) if name.isdigit() else None
        if process is not None:
            everything[process.pid] = process
    mine = {pid for pid in everything if wanted in _read(f"/proc/{pid}/environ").split(b"\0")}
    if os.environ.get(MARK) == mark:
        mine.add(os.getpid())
    while True:
        children = {pid for pid, process in everything.items() if process.parent in mine} - mine
        if not children:
            return {pid: everything[pid] for pid in sorted(mine)}
        mine |= children


def role(pid: int, roles: Iterable[tuple[str, str]]) -> str:
    """Return the role of a process: "client" for this one, else the first match of its command line."""
    if pid == os.getpid():
        return "client"
    line = _read(f"/proc/{pid}/cmdline").replace(b"\0", b" ").decode("utf-8", "replace").strip()
    for part, name in roles:
        if part in line:
            return name
    words = [os.path.basename(word) for word in line.split()]
    return " ".join(words)[:60] or "ended"


def machine_cpu() -> float:
    """Return the seconds of processor time that the machine has used since boot."""
    user, nice, system, _idle, _wait, irq, softirq = map(
        int, _read("/proc/stat").split(b"\n")[0].split()[1:8]
    )
    return (user + nice + system + irq + softirq) / _TICKS


def reset_peaks(pids: Iterable[int]) -> None:
    """Reset the peak memory of these processes to their current memory."""
    for pid in pids:
        try:
            Path(f"/proc/{pid}/clear_refs").write_text("5")
        except OSError:  # ended, or not supported by the kernel: then the peak covers the whole run time
            continue


def peak_megabytes(pid: int) -> float:
    """Return the peak resident memory of a process since the last reset, in MiB; 0 if it has ended."""
    for line in _read(f"/proc/{pid}/status").splitlines():
        if line.startswith(b"VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


def alive(started: Mapping[int, int]) -> list[int]:
    """Return which of these processes (pid -> start) are alive."""
    found = {pid: read_process(pid) for pid in started}
    return [pid for pid, process in found.items() if process is not None and process.start == started[pid]]


def end(started: Mapping[int, int], grace: float = 5.0) -> list[int]:
    """End these processes (pid -> start) with SIGTERM, then SIGKILL; return the pids still alive."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in alive(started):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
        deadline = time.monotonic() + grace
        while alive(started) and time.monotonic() < deadline:
            time.sleep(0.05)
    return alive(started)
