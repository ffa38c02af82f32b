"""An endpoint behind a slow uplink: large results arrive, and nothing waits for them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.support.chaos_proxy import ChaosProxy
from tests.support.embedded import Embedded

#: Bytes per second, and size of the large result: 15 s.
RATE, SIZE = 300_000, 4_500_000


def _large(size: int) -> bytes:
    import os

    return os.urandom(size)


@pytest.fixture
def uplink(umbel: Embedded) -> Iterator[ChaosProxy]:
    """What is between the endpoint ``lab`` and the broker."""
    endpoint = umbel.endpoint("lab", slots=1)
    file = endpoint.folder / "credentials.json"
    credentials = json.loads(file.read_text())
    parts = urlsplit(credentials["broker_url"])
    endpoint.stop()
    with ChaosProxy((str(parts.hostname), int(parts.port or 0))) as proxy:
        account = parts.netloc.rpartition("@")[0]
        moved = parts._replace(netloc=f"{account}@127.0.0.1:{proxy.port}").geturl()
        file.write_text(json.dumps({**credentials, "broker_url": moved}))
        endpoint.start()
        yield proxy
        endpoint.stop()


def test_a_large_result_arrives_and_small_ones_pass_it(umbel: Embedded, uplink: ChaosProxy) -> None:
    with umbel.executor("lab") as executor:
        assert executor.submit(pow, 2, 3).result(30) == 8
        uplink.up.rate = RATE
        began = time.monotonic()
        large = executor.submit(_large, SIZE)
        assert executor.submit(pow, 2, 5).result(10) == 32
        assert not large.done() and time.monotonic() - began < 10
        before = uplink.up.passed
        assert len(large.result(60)) == SIZE
        assert time.monotonic() - began > SIZE / RATE / 2, "the link is not slow"
        assert uplink.up.passed - before < 1.5 * SIZE, "it is sent once"
        [task] = [
            task for task in umbel.client().tasks(group_id=executor.group_id) if task["result_size"] > 1000
        ]
        assert task["attempt"] == 1
        assert umbel.client().get_endpoint("lab")["state"] == "online"
