"""The dramatiq broker and actors of the dramatiq peer, for client and workers."""

from __future__ import annotations

import os

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from benchmarks.functions import BY_NAME

_url = f"redis://127.0.0.1:{os.environ['UMBEL_BENCH_REDIS_PORT']}/0"
broker = RedisBroker(url=_url)
broker.add_middleware(Results(backend=RedisBackend(url=_url), result_ttl=3_600_000))
dramatiq.set_broker(broker)
actors = {
    name: dramatiq.actor(function, actor_name=name, store_results=True) for name, function in BY_NAME.items()
}
