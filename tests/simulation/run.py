"""Runs schedules: one with its trace, or many in all processors."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from tests.simulation.clock import deterministic
from tests.simulation.site import Site, opened
from tests.simulation.world import World, watched

#: Failures after which a run ends.
ENOUGH = 10


@dataclass(frozen=True)
class Failure:
    """A schedule in which something did not hold."""

    seed: int
    what: str
    trace: Sequence[str]


def run_seed(site: Site, seed: int) -> Failure | None:
    """Run the schedule of a seed."""
    chance = random.Random(seed)
    with deterministic(site.clock, chance):
        world = World(site, chance)
        try:
            with watched(world):
                world.run()
        except Exception as error:  # a bug of any kind
            text = f"{type(error).__name__}: {error}"
            if not isinstance(error, AssertionError):
                text += "\n" + traceback.format_exc()
            return Failure(seed, text, world.trace)
        finally:
            site.database.hook = lambda: None
            LAST_TRACE[:] = world.trace
    return None


#: The trace of the latest schedule.
LAST_TRACE: list[str] = []


def traced(site: Site, seed: int) -> list[str]:
    """Run the schedule of a seed; return its trace."""
    run_seed(site, seed)
    return list(LAST_TRACE)


def digest(site: Site, seeds: Iterable[int]) -> str:
    """Run schedules; return a hash of their traces."""
    hasher = hashlib.sha256()
    for seed in seeds:
        hasher.update("\n".join(traced(site, seed)).encode())
    return hasher.hexdigest()


def digest_elsewhere(seeds: range) -> str:
    """Return ``digest`` from a new process."""
    command = [sys.executable, "-m", "tests.simulation", "--digest", str(seeds.start), str(seeds.stop)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip()


def failing(site: Site, seeds: Iterable[int]) -> Iterator[Failure]:
    """Run schedules in this process; yield those that fail."""
    for seed in seeds:
        failure = run_seed(site, seed)
        if failure is not None:
            yield failure


def run_many(first: int, count: int, processes: int | None = None) -> list[tuple[int, str]]:
    """Run schedules in several processes; return (seed, what) of some that failed."""
    number = processes or os.cpu_count() or 1
    command = [sys.executable, "-m", "tests.simulation", "--part"]
    environ = {**os.environ, "PYTHONHASHSEED": "0"}
    running = [
        subprocess.Popen(
            [*command, str(first + part), str(first + count), str(number)],
            stdout=subprocess.PIPE, text=True, env=environ,
        )
        for part in range(number)
    ]  # fmt: skip
    found = []
    for process in running:
        output, _ = process.communicate()
        found += [(int(seed), what) for seed, what in (line.split(" ", 1) for line in output.splitlines())]
        assert process.returncode == 0, f"a process of the simulation ended with {process.returncode}"
    return sorted(found)


def main(words: Sequence[str]) -> int:
    """Run what the command line asks for."""
    if words[:1] == ["--part"]:
        with opened() as site:
            for failure in islice(failing(site, range(*map(int, words[1:]))), ENOUGH):
                print(failure.seed, failure.what.splitlines()[0][:300], flush=True)
        return 0
    if words[:1] == ["--digest"]:
        with opened() as site:
            print(digest(site, range(*map(int, words[1:]))))
        return 0
    if len(words) == 1:
        with opened() as site:
            failure = run_seed(site, int(words[0]))
            print("\n".join(LAST_TRACE))
        print(failure.what if failure else "everything holds")
        return 1 if failure else 0
    first, count = map(int, words)
    started = time.monotonic()
    found = run_many(first, count)
    for seed, what in found:
        print(f"python -m tests.simulation {seed}  # {what}")
    seconds = time.monotonic() - started
    print(f"{count} schedules, {seconds:.0f} s ({1000 * seconds / count:.1f} ms each): {len(found)} failed")
    return 1 if found else 0
