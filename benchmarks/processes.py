"""What the processes of one session use, read from /proc, and how they are ended.

A session and all that it starts carry a mark in their environment; children that were given another
environment are found through their parents. Linux only.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

#: Environment variable that holds the session's mark.
MARK = "UMBEL_BENCH_SESSION"
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Process:
    """A process that was alive when looked at; ``start`` (ticks since boot) tells it from a later one.

    ``cpu``: seconds of processor time, with those of its ended and awaited children.
    """

    pid: int
    parent: int
    start: int
    cpu: float


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:  # it has ended, or is not ours
        return b""


def look(pid: int) -> Process | None:
    """The process ``pid``, or None when it has ended."""
    text = _read(f"/proc/{pid}/stat").decode("ascii", "replace")
    fields = text[text.rfind(")") + 2 :].split()
    if not fields or fields[0] == "Z":
        return None
    return Process(pid, int(fields[1]), int(fields[19]), sum(map(int, fields[11:15])) / _TICKS)


def of_session(mark: str) -> dict[int, Process]:
    """All live processes of a session by pid: those with its mark, and their descendants."""
    wanted = f"{MARK}={mark}".encode()
    everybody = {}
    for name in os.listdir("/proc"):
        process = look(int(name)) if name.isdigit() else None
        if process is not None:
            everybody[process.pid] = process
    mine = {pid for pid in everybody if wanted in _read(f"/proc/{pid}/environ").split(b"\0")}
    if os.environ.get(MARK) == mark:
        mine.add(os.getpid())
    while True:
        children = {pid for pid, process in everybody.items() if process.parent in mine} - mine
        if not children:
            return {pid: everybody[pid] for pid in sorted(mine)}
        mine |= children


def role(pid: int, roles: Iterable[tuple[str, str]]) -> str:
    """What a process is: "client" for this one, else by the first (part of its command, role) that fits."""
    if pid == os.getpid():
        return "client"
    line = _read(f"/proc/{pid}/cmdline").replace(b"\0", b" ").decode("utf-8", "replace").strip()
    for part, name in roles:
        if part in line:
            return name
    words = [os.path.basename(word) for word in line.split()]
    return " ".join(words)[:60] or "ended"


def machine_cpu() -> float:
    """Seconds of processor time that the whole machine has been busy since it started."""
    user, nice, system, _idle, _wait, irq, softirq = map(
        int, _read("/proc/stat").split(b"\n")[0].split()[1:8]
    )
    return (user + nice + system + irq + softirq) / _TICKS


def reset_peaks(pids: Iterable[int]) -> None:
    """Let the peak memory of these processes begin at what they use now."""
    for pid in pids:
        try:
            Path(f"/proc/{pid}/clear_refs").write_text("5")
        except OSError:  # ended, or a kernel without it: then the peak is of its whole life
            continue


def peak_megabytes(pid: int) -> float:
    """Largest resident memory of a process since its peak was reset, in MiB; 0 when it has ended."""
    for line in _read(f"/proc/{pid}/status").splitlines():
        if line.startswith(b"VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


def alive(started: Mapping[int, int]) -> list[int]:
    """Which of these processes (pid -> start) still live."""
    found = {pid: look(pid) for pid in started}
    return [pid for pid, process in found.items() if process is not None and process.start == started[pid]]


def end(started: Mapping[int, int], grace: float = 5.0) -> list[int]:
    """End these processes (pid -> start), first kindly; return the pids of those that still live."""
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
