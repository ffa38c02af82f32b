"""The works: what is called, how often, and what must come back."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

#: Worker slots of every system.
SLOTS = 2
#: Bytes of one argument of W3.
ECHO_BYTES = 100_000
#: Seconds of one call of W4.
SHORT_NAP = 0.001
#: W10: calls under way whose results were not taken yet, at most.
AHEAD = 10_000
#: W6: (calls, seconds of each) of one block; the blocks follow each other, each in an order of its own.
MIXED_BLOCK = ((50, 0.0), (10, 0.05), (1, 2.0))
MIXED_BLOCKS = 20


@dataclass(frozen=True)
class Work:
    """One kind of work.

    ``sizes``: numbers of calls, one run (W2: one series) each; ``peers``: whether the other systems take
    part, and ``every_round``: in every round or, because it takes them minutes, in the first only.
    """

    name: str
    title: str
    sizes: tuple[int, ...]
    function: str = "same"
    peers: bool = True
    every_round: bool = True


WORKS = {
    work.name: work
    for work in (
        Work("W1", "no-ops", (2_000, 10_000)),
        Work("W2", "sequential round trips", (300,)),
        Work("W3", "calls with 100 kB echoed", (500,)),
        Work("W4", "calls of 1 ms", (2_000,), "nap"),
        Work("W5", "no-ops, with the memory of each process", (100_000,), every_round=False),
        Work("W6", "a mixed bag of calls of 0 ms, 50 ms and 2 s", (61 * MIXED_BLOCKS,), "nap"),
        Work("W7", "growth of the cost per task", (100, 1_000, 10_000, 100_000), peers=False),
        Work("W8", "first call of a runner: cold, at a start, warm", (1,)),
        Work("W9", "elastic endpoint on an empty Slurm cluster", (1,)),
        Work("W7old", "the same with old tasks in the ledger", (10_000,), peers=False),
        Work("W10", "no-ops of a generator, 10,000 of them ahead", (1_000_000,), peers=False),
    )
}

#: Works that share a session, in this order: one that measures memory or growth has a session of its own.
PASSES = (("W1", "W2", "W3", "W4"), ("W6",), ("W5",), ("W10",), ("W7",), ("W7old",))


def sizes(work: Work, quick: bool) -> list[int]:
    """The work's numbers of calls; a tenth of them for a quick look."""
    return [max(10, n // 10) for n in work.sizes] if quick else list(work.sizes)


def arguments(work: str, n: int) -> list[Any]:
    """The ``n`` arguments of a run, the same in every run; bytes, numbers and lists of numbers only."""
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


def expected(work: str, items: Sequence[Any]) -> list[Any]:
    """What the calls must return, in order."""
    return [item[0] for item in items] if WORKS[work].function == "nap" else list(items)


def ideal_seconds(items: Sequence[Any]) -> float:
    """The least time in which ``SLOTS`` slots can sleep through these arguments of ``nap``."""
    naps: list[float] = [item[1] for item in items]
    return max(sum(naps) / SLOTS, max(naps, default=0.0))
