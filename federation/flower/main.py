"""``python -m federation flower``: one Flower that sees the Celery workers and messages of all endpoints.

Every endpoint's events travel below its own key prefix. Flower subscribes to all of them at once, because
Celery subscribes by pattern and the prefix may hold one. It only looks: its broker account can neither read
queues nor speak to workers, and its own buttons are off. With ``--controls`` its buttons work (grow, shrink
and restart a pool, shut down a worker, revoke a message), with an account that may speak to workers and
hear their answers, and still read no queue. What it shows of a message is the function's name and how many
calls.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from celery import Celery
from flower.app import Flower
from flower.options import options
from flower.urls import settings as tornado_settings

from ..config.settings import Settings, load
from ..db.engine import Database
from ..standalone import flower_access, redis_server
from .controls import EndpointControl, Places

log = logging.getLogger(__name__)

#: Messages kept in memory.
MAX_TASKS = 10_000


def main(argv: Sequence[str]) -> int:
    """Serve Flower until SIGTERM; return the exit code. Raises UmbelError."""
    parser = argparse.ArgumentParser(prog="python -m federation flower")
    parser.add_argument(
        "--home", type=Path, help="folder of the federation (default: $UMBEL_HOME or ~/.umbel)"
    )
    parser.add_argument("--port", type=int, default=5555, help="port on 127.0.0.1 (default: 5555)")
    parser.add_argument("--controls", action="store_true", help="let Flower's buttons change workers")
    arguments = parser.parse_args(argv)
    settings = load(arguments.home)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    flower_access.prepare(settings.home)
    _set_options(arguments.port, flower_access.password(settings.home), read_only=not arguments.controls)
    signal.signal(signal.SIGTERM, _leave)
    flower = _flower(settings, controls=arguments.controls)
    try:
        port = flower.start_http_server()
        log.info("Flower listens on http://127.0.0.1:%s", port)
        flower.start()
    except (KeyboardInterrupt, SystemExit):
        flower.stop()
    return 0


def _flower(settings: Settings, *, controls: bool) -> Watcher:
    if not controls:
        app = celery_app(settings.broker_url or redis_server.flower_url(settings.home))
        return Watcher(capp=app, options=options, **tornado_settings)
    app = celery_app(settings.broker_url or redis_server.operator_url(settings.home))
    app.control = EndpointControl(app)
    app.control.places = Places(Database(settings.database))
    return Operator(capp=app, options=options, **tornado_settings)


class Watcher(Flower):
    """A Flower that asks workers nothing: their events say enough, and it has no right to speak to them."""

    def update_workers(self, workername: str | None = None) -> asyncio.Future[None]:
        """Ask nobody; return what is already done."""
        nothing: asyncio.Future[None] = self.io_loop.asyncio_loop.create_future()
        nothing.set_result(None)
        return nothing


class Operator(Watcher):
    """A Flower that asks one worker at a time, when somebody looks at it or changes it."""

    def update_workers(self, workername: str | None = None) -> asyncio.Future[None]:
        """Ask that worker; never all of all endpoints."""
        return self.inspector.inspect(workername) if workername else super().update_workers()

    @property
    def workers(self) -> dict[str, Any]:
        """What is known of workers by name; those that only events told of may be changed, too."""
        return {**{name: {} for name in self.events.state.workers}, **self.inspector.workers}


def celery_app(url: str) -> Celery:
    """A Celery app that hears the events of all endpoints at the broker ``url``."""
    app = Celery("umbel-monitor", broker=url, set_as_current=False)
    app.conf.update(
        # kombu puts the prefix before the channel pattern it subscribes to: the star takes in every endpoint
        broker_transport_options={"fanout_prefix": "/ep:*:/{db}.", "health_check_interval": 10},
        broker_connection_retry_on_startup=True,
        event_queue_expires=None,
        # the one queue whose length the broker page shows: it is empty, and Flower's account may ask for it
        task_default_queue=redis_server.FLOWER_QUEUE,
        result_backend=None,
        accept_content=["json"],
    )
    return app


def _set_options(port: int, password: str, *, read_only: bool) -> None:
    options.address = "127.0.0.1"
    options.port = port
    options.basic_auth = [f"{flower_access.USER}:{password}"]
    options.read_only = read_only
    options.enable_events = False
    options.max_tasks = MAX_TASKS
    options.purge_offline_workers = 3600


def _leave(_number: int, _frame: FrameType | None) -> None:
    sys.exit(0)
