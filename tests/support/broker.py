"""A real redis-server for tests, started and stopped in a few hundredths of a second."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from federation.standalone import redis_server
from tests.support.wait import wait_until


@contextmanager
def running_broker(home: Path) -> Iterator[str]:
    """Run the embedded broker of ``home``; yield the service's URL."""
    argv = redis_server.prepare(home)
    process = subprocess.Popen(argv, cwd=home / "redis", stdout=subprocess.DEVNULL)
    url = redis_server.broker_url(home)
    try:
        with redis.Redis.from_url(url) as client:
            wait_until(lambda: _answers(client), what="the broker's answer")
        yield url
    finally:
        process.terminate()
        process.wait(10)


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False
