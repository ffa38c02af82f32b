"""A lone call comes back soon while a bag of its own user's calls runs at the same endpoint."""

from __future__ import annotations

import time
from pathlib import Path

from tests.support.embedded import Embedded

CALLS = 20_000


def _wait(number: int) -> int:
    import time

    time.sleep(0.002)
    return number


def test_lone_calls_do_not_wait_for_their_owners_bag(tmp_path: Path) -> None:
    with Embedded(tmp_path, workers=0) as umbel:
        umbel.endpoint("lab", slots=2)
        with umbel.executor("lab") as executor, umbel.executor("lab") as lone:
            lone.submit(_wait, -1).result(timeout=60)
            bag = [executor.submit(_wait, number) for number in range(CALLS)]
            bag[0].result(timeout=60)
            executor.flush(60)
            times = []
            for number in range(10):
                began = time.monotonic()
                assert lone.submit(_wait, number).result(timeout=60) == number
                times.append(time.monotonic() - began)
            done = sum(future.done() for future in bag)
            assert done < CALLS - 1000, f"the bag has ended: {times}"
            assert sorted(times)[5] < 1.0, times
            for future in bag[done : done + 1000]:
                assert future.result(timeout=60) is not None, "the bag goes on"
            executor.shutdown(cancel_futures=True)
