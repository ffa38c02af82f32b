"""Plain Celery over Redis: one message per call, prefork with two processes, JSON, results in Redis."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

from .base import Peer


class CeleryRedis(Peer):
    """The client sends single calls and gathers with ``ResultSet.join``, its fastest method."""

    needs_redis = True
    packages = ("celery", "kombu", "redis", "hiredis")
    roles = (("celery", "worker"), ("redis-server", "redis"))

    def start(self) -> None:
        """Start one worker."""
        os.environ["UMBEL_BENCH_REDIS_PORT"] = str(self.redis_port)
        # the application reads the port at import
        self._tasks = importlib.import_module("benchmarks.peers.celery_app").tasks
        self._results = importlib.import_module("celery.result").ResultSet
        options = ["--pool", "prefork", "--without-gossip", "--without-mingle", "--without-heartbeat"]
        self.spawn(
            [
                sys.executable,
                "-m",
                "celery",
                "-A",
                "benchmarks.peers.celery_app",
                "worker",
                "-l",
                "WARNING",
                *options,
            ]
        )

    def run(self, function: str, items: Sequence[Any]) -> list[Any]:
        """Send and gather."""
        task = self._tasks[function]
        if len(items) == 1:
            return [task.delay(items[0]).get()]
        return list(self._results([task.delay(item) for item in items]).join())
