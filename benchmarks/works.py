"""The workloads: functions, numbers of calls, arguments and expected results."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

#: Worker slots of every system.
SLOTS = 2
#: Bytes of one argument of W3.
ECHO_BYTES = 100_000
#: Bytes of the numbers in one array of these works.
ARRAY_BYTES = {"W22small": 100_000, "W22": 1_000_000, "W22large": 9_000_000}
#: How often a session runs each of these works.
ARRAY_RUNS = 5
#: Seconds of one call of W4.
SHORT_NAP = 0.001
#: W10: most calls that are submitted ahead of the results that were read.
AHEAD = 10_000
#: W6: (calls, seconds of each) of one block; each block has a random order.
MIXED_BLOCK = ((50, 0.0), (10, 0.05), (1, 2.0))
MIXED_BLOCKS = 20


@dataclass(frozen=True)
class Work:
    """One kind of work.

    ``sizes``: numbers of calls, one run (W2: one series) each; ``peers``: whether other systems run it, and
    ``every_round``: in every round, or only in the first because it takes minutes. ``suited``: the only peers
    that can run it, if not all can. ``systems``: the only ones that run it, whatever else is measured;
    ``limit``: seconds that it may take if that is more than usual.
    """

    name: str
    title: str
    sizes: tuple[int, ...]
    function: str = "same"
    peers: bool = True
    every_round: bool = True
    suited: tuple[str, ...] = ()
    systems: tuple[str, ...] = ()
    limit: int = 0


WORKS = {
    work.name: work
    for work in (
        Work("W1", "no-ops", (2_000, 10_000)),
        Work("W2", "sequential round trips", (300,)),
        Work("W3", "calls with 100 kB echoed", (500,)),
        Work("W4", "calls of 1 ms", (2_000,), "nap"),
        Work("W5", "no-ops, with the memory of each process", (100_000,), every_round=False),
        Work("W6", "mixed calls of 0 ms, 50 ms and 2 s", (61 * MIXED_BLOCKS,), "nap"),
        Work("W7", "growth of the cost per task", (100, 1_000, 10_000, 100_000), peers=False),
        Work("W8", "first call in a runner: cold, start, warm", (1,)),
        Work("W9", "elastic endpoint on an empty Slurm cluster", (1,)),
        Work("W7old", "the same with old tasks in the ledger", (10_000,), peers=False),
        Work("W10", "no-ops from a generator, 10,000 ahead", (1_000_000,), peers=False),
        Work("W16", "no-ops on 131,072 slots", (1_310_720,), peers=False, limit=1_800),
        Work("W16long", "calls of 30 s on 8,192 slots", (32_768,), peers=False),
        Work("W17", "no-ops in each bag beside lone calls", (100_000,), peers=False, limit=1_800),
        Work(
            "W18",
            "no-ops, with the ledger in PostgreSQL",
            (2_000, 10_000),
            systems=("umbel-postgresql", "umbel-postgresql-2"),
        ),
        Work("W19", "finished tasks, 10,000 endpoints, 500 users", (1_000_000,), peers=False, limit=1_200),
        Work("W20", "partials, methods, objects, closures, lambdas", (2_000,), peers=False),
        Work("W21", "calls of 20 functions in turn, two with threads", (2_000,), peers=False),
        Work("W22small", "NumPy arrays of 0.1 MB echoed", (500,), suited=("parsl", "dask")),
        Work("W22", "NumPy arrays of 1 MB echoed", (60,), suited=("parsl", "dask")),
        Work("W22large", "NumPy arrays of 9 MB echoed", (7,), suited=("parsl", "dask")),
    )
}

#: Works that share a session, in order; works that measure memory or growth have their own.
PASSES = (
    ("W1", "W2", "W3", "W4", "W20", "W21"),
    ("W22small", "W22", "W22large"),
    *(("W18",), ("W6",), ("W5",), ("W10",), ("W7",), ("W7old",), ("W16",), ("W17",), ("W19",)),
)

#: Works with simulated nodes, whose sessions start another service.
SCALE = ("W16", "W17", "W19")


def sizes(work: Work, quick: bool) -> list[int]:
    """Return the work's numbers of calls; a tenth of them if ``quick``."""
    return [max(10, n // 10) for n in work.sizes] if quick else list(work.sizes)


def arguments(work: str, n: int) -> list[Any]:
    """Return the ``n`` arguments of a run, the same in every run: bytes, numbers, lists of them, arrays."""
    if work in ARRAY_BYTES:
        return _arrays(n, ARRAY_BYTES[work])
    if work == "W3":
        tail = random.Random(3).randbytes(ECHO_BYTES - 8)
        return [number.to_bytes(8, "big") + tail for number in range(n)]
    if work == "W4":
        return [[number, SHORT_NAP] for number in range(n)]
    if work == "W6":
        return [[number, seconds] for number, seconds in enumerate(_mixed(n))]
    return list(range(n))


def _mixed(n: int) -> list[float]:
    order = random.Random(6)
    shuffled: list[float] = []
    while len(shuffled) < n:
        block = [seconds for count, seconds in MIXED_BLOCK for _ in range(count)]
        order.shuffle(block)
        shuffled += block
    return shuffled[:n]


def _arrays(n: int, size: int) -> list[Any]:
    """Return NumPy arrays of random numbers, all different; only these works need NumPy."""
    import numpy

    common = numpy.random.default_rng(22).random(size // 8)
    arrays = [common.copy() for _ in range(n)]
    for number, array in enumerate(arrays):
        array[0] = number
    return arrays


def are_equal(work: str, results: Sequence[Any], wanted: Sequence[Any]) -> bool:
    """Return whether the results of a work are the expected ones."""
    if work not in ARRAY_BYTES:
        return results == wanted
    import numpy

    return len(results) == len(wanted) and all(map(numpy.array_equal, results, wanted))


def expected(work: str, items: Sequence[Any]) -> list[Any]:
    """Return the expected results, in order."""
    return [item[0] for item in items] if WORKS[work].function == "nap" else list(items)


def ideal_seconds(items: Sequence[Any]) -> float:
    """Return the shortest possible makespan of these arguments of ``nap`` with ``SLOTS`` slots."""
    naps: list[float] = [item[1] for item in items]
    return max(sum(naps) / SLOTS, max(naps, default=0.0))
