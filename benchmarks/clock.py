"""Wall time and processor time of one run, and the load of other processes during it."""

from __future__ import annotations

import gc
import os
import time
from collections import defaultdict
from types import TracebackType
from typing import Any

from . import processes

#: Sleeps to measure the real duration of one.
NAPS = 300


class Clock:
    """Measures the ``with`` block: ``seconds``, and ``cpu`` (role of a process -> seconds of processor time).

    A process that starts and ends inside the block is counted for the parent that waited for it.
    """

    def __init__(self, mark: str, roles: tuple[tuple[str, str], ...]):
        self._mark, self._roles = mark, roles
        self.seconds = 0.0
        self.cpu: dict[str, float] = {}

    def __enter__(self) -> Clock:
        gc.collect()
        self._machine_speed = spin()
        self._before = processes.of_session(self._mark)
        self._machine = processes.machine_cpu()
        self._began = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds = time.perf_counter() - self._began
        self._machine = processes.machine_cpu() - self._machine
        used: dict[str, float] = defaultdict(float)
        for pid, process in processes.of_session(self._mark).items():
            before = self._before.get(pid)
            same = before is not None and before.start == process.start
            spent = process.cpu - (before.cpu if before is not None and same else 0.0)
            used[processes.role(pid, self._roles)] += max(0.0, spent)
        self.cpu = {name: seconds for name, seconds in used.items() if seconds}

    def record(self, n: int) -> dict[str, Any]:
        """Return the fields of every record: wall time and processor time of ``n`` calls.

        ``others``: share of the machine used by other processes, with a resolution of 10 ms of processor
        time. ``spin_ms``: see ``spin``; it reveals a slow host, which no other field does.
        """
        total = sum(self.cpu.values())
        others = max(0.0, self._machine - total) / self.seconds / (os.cpu_count() or 1)
        return {
            "n": n,
            "seconds": round(self.seconds, 5),
            "tasks_per_s": round(n / self.seconds, 1),
            "cpu_ms_per_task": round(total / n * 1000, 4),
            "cpu_ms_per_task_by_process": {
                name: round(cpu / n * 1000, 4) for name, cpu in sorted(self.cpu.items())
            },
            "others": round(others, 3),
            "spin_ms": self._machine_speed,
        }


def spin() -> float:
    """Return the milliseconds that a fixed piece of Python code takes now."""
    began, total = time.perf_counter(), 0
    for number in range(400_000):
        total += number * number & 255
    return round((time.perf_counter() - began) * 1000, 1)


def bare_nap(seconds: float) -> float:
    """Return the real duration of a sleep in an idle process: a lower bound for every system."""
    began = time.perf_counter()
    for _ in range(NAPS):
        time.sleep(seconds)
    return (time.perf_counter() - began) / NAPS


def settle(mark: str, allowance: float) -> float:
    """Wait until other processes use less than a tenth of a core, at most ``allowance`` seconds.

    Returns the remaining seconds of the allowance.
    """
    while allowance > 0:
        began = time.monotonic()
        busy, own = processes.machine_cpu(), _total(mark)
        time.sleep(0.5)
        took = time.monotonic() - began
        busy, own = processes.machine_cpu() - busy, _total(mark) - own
        if busy - own <= 0.1 * took + 0.02:
            break
        allowance -= took
    return allowance


def _total(mark: str) -> float:
    return sum(process.cpu for process in processes.of_session(mark).values())
