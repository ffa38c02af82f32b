"""What of a node's hardware a slot is: how many there are, whose processors and accelerators are which."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

#: Variables that tell the runtimes of NVIDIA, AMD and Intel which accelerators to use.
ACCELERATOR_VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ZE_AFFINITY_MASK",
)
#: Variables that tell libraries how many threads to start.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
#: How many slots a call occupies, for the call to read.
CORES_VARIABLE = "UMBEL_CORES"


@dataclass(frozen=True)
class Hardware:
    """Table ``[hardware]``. Sizes in bytes, 0: as if it were not there."""

    cores_per_slot: int = field(
        default=0,
        metadata={"docs": "Processors of one slot: there are as many slots as they suffice for. 0: one."},
    )
    memory_per_slot: int = field(
        default=0,
        metadata={
            "docs": 'No more slots than the node has memory for, such as "4GiB" each. 0: however many.',
            "size": True,
        },
    )
    accelerators: tuple[str, ...] = field(
        default=(),
        metadata={
            "docs": 'GPUs, one per slot: how many, or their numbers or names, such as ["0", "1"]. One that '
            "several slots shall share is named as often.",
        },
    )
    affinity: bool = field(
        default=False, metadata={"docs": "Keep each slot's calls on processors of their own."}
    )

    def count(self, slots: int) -> int:
        """How many slots there are; ``slots``: how many the site wants, 0: as many as there is hardware."""
        if slots:
            return slots
        possible = [len(processors()) // max(1, self.cores_per_slot)]
        if self.memory_per_slot:
            possible.append(memory() // self.memory_per_slot)
        if self.accelerators:
            possible.append(len(self.accelerators))
        return max(1, min(possible))

    def problem(self, slots: int) -> str:
        """Why so many slots (0: as many as there is hardware) cannot be, or ""."""
        most = len(self.accelerators)
        if most and slots > most:
            return (
                f"slots = {slots}, but 'accelerators' names {most}, one per slot: "
                f"set slots = {most}, or name those that are shared as often as they are"
            )
        return ""

    def layout(self, slots: int) -> Layout:
        """Who gets what of this node when there are so many slots."""
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
    """What belongs to each slot, by its number; slots that are added later share with the first ones.

    ``processors``: numbers of each slot's, empty: all slots run anywhere. ``accelerators``: one per slot,
    empty: nobody is told of any. ``each``: processors that count as one slot.
    """

    processors: Sequence[Sequence[int]] = ()
    accelerators: Sequence[str] = ()
    each: int = 1

    def affinity(self, numbers: Iterable[int]) -> set[int]:
        """Processors for a runner that stands on these slots; empty: any."""
        if not self.processors:
            return set()
        return {cpu for number in numbers for cpu in self.processors[number % len(self.processors)]}

    def environment(self, numbers: Sequence[int]) -> dict[str, str]:
        """Variables for a runner that stands on these slots.

        Libraries are told how many threads to start only where a call asked for several slots: else it is the
        site's to say.
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
    """Bytes of memory that this process may use: of the machine, or of the control group that it is in."""
    total = int(psutil.virtual_memory().total)
    try:
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            number, _, path = line.split(":", 2)
            if number == "0":
                limit = Path("/sys/fs/cgroup" + path, "memory.max").read_text().strip()
                return min(total, int(limit)) if limit.isdigit() else total
    except (OSError, ValueError):
        pass  # no such thing here
    return total


class BoundTo:
    """For a ``with`` block: what this thread starts runs on these processors only; empty: anywhere."""

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
