"""100,000 calls wait at an endpoint: the broker stays small, requests and other work stay quick."""

from __future__ import annotations

import time

import pytest
import redis

from tests.support.embedded import Embedded
from tests.support.wait import wait_until

CALLS = 100_000


@pytest.mark.timeout(180)
def test_a_hundred_thousand_calls_wait(umbel: Embedded) -> None:
    lab = umbel.endpoint("lab", slots=2)
    lab.stop()
    client = umbel.client()
    url = (umbel.home / "redis" / "service.url").read_text().strip()
    with redis.Redis.from_url(url) as broker, umbel.executor("lab") as executor:
        began = time.monotonic()
        futures = [executor.submit(abs, -number) for number in range(CALLS)]
        executor.flush(90)
        assert time.monotonic() - began < 60
        assert broker.info("memory")["used_memory"] < 100e6, "the calls wait in the ledger"
        task_id = futures[-1].task_id
        times = []
        for _ in range(50):
            before = time.monotonic()
            assert client.get_task(task_id)["state"] in ("queued", "dispatched")
            times.append(time.monotonic() - before)
        assert sorted(times)[len(times) * 9 // 10] < 0.5
        with umbel.executor() as other:
            before = time.monotonic()
            assert other.submit(pow, 2, 5).result(30) == 32
            assert time.monotonic() - before < 10, "a lone call waits behind those of another endpoint"
        lab.start()
        wait_until(
            lambda: sum(future.done() for future in futures[:5000]) == 5000, 60, what="the first 5,000"
        )
        done = sum(future.done() for future in futures[-5000:])
        assert done == 0 or all(future.done() for future in futures[:50_000]), "the last overtook the first"
        executor.shutdown(cancel_futures=True)
        lab.stop()
