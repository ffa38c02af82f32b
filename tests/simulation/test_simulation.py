"""Random schedules of the whole service, and the bugs that they must find."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest

from tests.simulation import run
from tests.simulation.mutants import MUTANTS
from tests.simulation.site import Site, opened

#: Number of schedules, and the first seed. ``make simulate`` sets them.
SEEDS, FIRST = int(os.environ.get("SEEDS", 300)), int(os.environ.get("FIRST", 0))
#: Schedules within which a bug must be found.
PATIENCE = 1500


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """One service for all schedules of this process."""
    with opened() as opened_site:
        yield opened_site


@pytest.mark.timeout(3600)
def test_what_must_hold_holds_in_every_schedule() -> None:
    found = run.run_many(FIRST, SEEDS)
    replay = [f"python -m tests.simulation {seed}  # {what}" for seed, what in found]
    assert not found, "replay with:\n" + "\n".join(replay)


def test_a_schedule_depends_on_its_seed_only(site: Site) -> None:
    traces = [list(run.traced(site, seed)) for seed in (7, 8, 9, 7)]
    assert traces[0] == traces[3] and traces[0] != traces[1]


def test_a_schedule_is_the_same_in_another_process(site: Site) -> None:
    assert run.digest(site, range(5)) == run.digest_elsewhere(range(5)) != run.digest(site, range(5, 10))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("bug", MUTANTS)
def test_a_bug_is_found(site: Site, bug: str) -> None:
    with MUTANTS[bug]():
        first = random.Random(bug).randrange(10**6)
        failure = next(iter(run.failing(site, range(first, first + PATIENCE))), None)
    assert failure is not None, f"{PATIENCE} schedules do not notice: {bug}"
    print(f"{failure.seed - first + 1} schedules: {failure.what.splitlines()[0]}")
