"""How a node's hardware is divided into slots: their number, and the processors and accelerators of each."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import psutil

from umbel.system.setting_types import Alternative, Count, Size

#: Variables that select accelerators in the runtimes of NVIDIA, AMD and Intel.
ACCELERATOR_VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ZE_AFFINITY_MASK",
)
#: Variables that set the number of threads that libraries start.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
#: Variable with the number of slots that a call occupies.
CORES_VARIABLE = "UMBEL_CORES"
#: Larger numbers of accelerators per node are rejected.
MAX_ACCELERATORS = 1024


def _numbered(count: int) -> list[str]:
    if not 0 < count <= MAX_ACCELERATORS:
        raise ValueError(f"{count} accelerators")
    return [str(number) for number in range(count)]


#: Accelerators by their numbers or names; a plain number of them stands for "0", "1", ...
Accelerators = Annotated[
    tuple[str, ...], Alternative(int, f"a positive integer up to {MAX_ACCELERATORS}", _numbered)
]


@dataclass(frozen=True)
class Hardware:
    """Table ``[hardware]``. Sizes in bytes; 0 means not set."""

    cores_per_slot: Count = field(
        default=0,
        metadata={"docs": "Processors per slot; limits the number of slots. 0: one."},
    )
    memory_per_slot: Size = field(
        default=0,
        metadata={"docs": 'Memory per slot, such as "4GiB"; limits the number of slots. 0: no limit.'},
    )
    accelerators: Accelerators = field(
        default=(),
        metadata={
            "docs": 'GPUs, one per slot: how many, or a list of their numbers or names, such as ["0", "1"]. '
            "To share one among several slots, repeat it.",
        },
    )
    affinity: bool = field(
        default=False, metadata={"docs": "Bind the calls of each slot to separate processors."}
    )

    def count(self, slots: int) -> int:
        """Return the number of slots: ``slots``, or if that is 0, the number that the hardware allows."""
        if slots:
            return slots
        possible = [len(processors()) // max(1, self.cores_per_slot)]
        if self.memory_per_slot:
            possible.append(memory() // self.memory_per_slot)
        if self.accelerators:
            possible.append(len(self.accelerators))
        return max(1, min(possible))

    def problem(self, slots: int) -> str:
        """Return why this number of slots is impossible, or ""; 0: what the hardware allows."""
        most = len(self.accelerators)
        if most and slots > most:
            return (
                f"slots = {slots}, but setting 'accelerators' lists {most}, one per slot: "
                f"set slots = {most}, or repeat accelerators that slots share"
            )
        return ""

    def layout(self, slots: int) -> Layout:
        """Assign this node's processors and accelerators to a number of slots."""
        here = processors()
        each = self.cores_per_slot or max(1, len(here) // slots)
        shares: list[tuple[int, ...]] = []
        if self.affinity:
            for number in range(slots):
                share = {here[(number * each + index) % len(here)] for index in range(each)}
                shares.append(tuple(sorted(share)))
        return Layout(tuple(shares), self.accelerators, max(1, self.cores_per_slot))


@dataclass(frozen=True)
class Layout:
    """The hardware of each slot, by slot number; slots added later share with the first ones.

    ``processors``: processor numbers per slot; empty: any. ``accelerators``: one per slot; empty:
    their variables are not set. ``each``: processors that count as one slot.
    """

    processors: Sequence[Sequence[int]] = ()
    accelerators: Sequence[str] = ()
    each: int = 1

    def affinity(self, numbers: Iterable[int]) -> set[int]:
        """Processors for a runner that occupies these slots; empty: any."""
        if not self.processors:
            return set()
        return {cpu for number in numbers for cpu in self.processors[number % len(self.processors)]}

    def environment(self, numbers: Sequence[int]) -> dict[str, str]:
        """Environment variables for a runner that occupies these slots.

        The number of threads is set only for calls that occupy several slots; otherwise the site decides.
        """
        variables = {CORES_VARIABLE: str(len(numbers))}
        if len(numbers) > 1:
            threads = len(self.affinity(numbers)) or self.each * len(numbers)
            variables.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
        if self.accelerators:
            own = [self.accelerators[number % len(self.accelerators)] for number in numbers]
            variables.update(dict.fromkeys(ACCELERATOR_VARIABLES, ",".join(dict.fromkeys(own))))
        return variables


def processors() -> list[int]:
    """Numbers of the processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def memory() -> int:
    """Bytes of memory that this process may use: of the machine, or the limit of its control group."""
    total = int(psutil.virtual_memory().total)
    try:
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            number, _, path = line.split(":", 2)
            if number == "0":
                limit = Path("/sys/fs/cgroup" + path, "memory.max").read_text().strip()
                return min(total, int(limit)) if limit.isdigit() else total
    except (OSError, ValueError):
        pass  # no control groups here
    return total


class BoundTo:
    """Context manager: processes that this thread starts run on these processors only; empty: on any."""

    def __init__(self, wanted: set[int]):
        self._wanted = wanted if hasattr(os, "sched_setaffinity") else set()
        self._before: set[int] = set()

    def __enter__(self) -> None:
        if self._wanted:
            self._before = os.sched_getaffinity(0)
            os.sched_setaffinity(0, self._wanted)

    def __exit__(self, *_: object) -> None:
        if self._wanted:
            os.sched_setaffinity(0, self._before)
