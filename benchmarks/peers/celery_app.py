"""The Celery application of the plain Celery peer, for client and workers."""

from __future__ import annotations

import os

from celery import Celery

from benchmarks.functions import BY_NAME
from benchmarks.works import SLOTS

#: Environment variable with the port of the session's Redis.
PORT = "UMBEL_BENCH_REDIS_PORT"

_url = f"redis://127.0.0.1:{os.environ[PORT]}"
app = Celery("benchmarks", broker=f"{_url}/0", backend=f"{_url}/1")
app.conf.update(
    worker_concurrency=SLOTS,
    worker_prefetch_multiplier=64,
    worker_send_task_events=False,
    task_track_started=False,
    broker_connection_retry_on_startup=True,
)
tasks = {name: app.task(name=name)(function) for name, function in BY_NAME.items()}
