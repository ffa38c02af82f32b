"""dramatiq over Redis with its results backend: two processes with one thread each."""

from __future__ import annotations

import base64
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

from .base import ROOT, Peer

#: Milliseconds to wait for results; longer than the limit of the session.
_PATIENCE = 600_000


class DramatiqRedis(Peer):
    """Messages are JSON, so bytes are sent as base64; the conversion is part of the measured time."""

    needs_redis = True
    packages = ("dramatiq", "redis", "hiredis")
    roles = (("dramatiq", "worker"), ("spawn_main", "worker"), ("redis-server", "redis"))

    def start(self) -> None:
        """Start the workers."""
        os.environ["UMBEL_BENCH_REDIS_PORT"] = str(self.redis_port)
        self._actors = importlib.import_module("benchmarks.peers.dramatiq_app").actors
        self._group = importlib.import_module("dramatiq").group
        self.spawn(
            [sys.executable, "-m", "dramatiq", "benchmarks.peers.dramatiq_app", "-p", "2", "-t", "1",
             "--path", str(ROOT)],
            {"dramatiq_queue_prefetch": "64"},
        )  # fmt: skip

    def run(self, function: str, items: Sequence[Any]) -> list[Any]:
        """Send a group and gather."""
        actor, in_bytes = self._actors[function], isinstance(items[0], bytes)
        if in_bytes:
            items = [base64.b64encode(item).decode("ascii") for item in items]
        if len(items) == 1:
            results = [actor.send(items[0]).get_result(block=True, timeout=_PATIENCE)]
        else:
            group = self._group([actor.message(item) for item in items]).run()
            results = list(group.get_results(block=True, timeout=_PATIENCE))
        return [base64.b64decode(result) for result in results] if in_bytes else results
