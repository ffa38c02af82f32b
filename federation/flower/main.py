"""``python -m federation flower``: one Flower for the Celery workers and messages of all endpoints.

Events of an endpoint are published under its key prefix. Celery subscribes by pattern and the prefix may
contain a wildcard, so Flower receives the events of all endpoints. By default Flower is read-only: its broker
account can neither read queues nor send commands to workers, and its buttons are off. With ``--controls`` the
buttons work (grow, shrink and restart a pool, shut down a worker, revoke a message); the account may then
send commands and receive replies, but still cannot read queues. Flower displays a message as the function's
name and the number of calls.
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
from .controls import EndpointControl, EndpointLookup
from .events import EventFilter

log = logging.getLogger(__name__)

#: Maximum number of messages kept in memory.
MAX_TASKS = 10_000


def main(argv: Sequence[str]) -> int:
    """Serve Flower until SIGTERM; return the exit code. Raises UmbelError."""
    parser = argparse.ArgumentParser(prog="python -m federation flower")
    parser.add_argument(
        "--home", type=Path, help="directory of the federation (default: $UMBEL_HOME or ~/.umbel)"
    )
    parser.add_argument("--port", type=int, default=5555, help="port on 127.0.0.1 (default: 5555)")
    parser.add_argument(
        "--controls", action="store_true", help="enable Flower's buttons that control workers"
    )
    arguments = parser.parse_args(argv)
    settings = load(arguments.home)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    flower_access.prepare(settings.home)
    _set_options(arguments.port, flower_access.password(settings.home), read_only=not arguments.controls)
    signal.signal(signal.SIGTERM, _exit)
    flower = _flower(settings, controls=arguments.controls)
    flower.events.on_event = EventFilter(flower.events.on_event)
    try:
        port = flower.start_http_server()
        log.info("Flower is listening on http://127.0.0.1:%s", port)
        flower.start()
    except (KeyboardInterrupt, SystemExit):
        flower.stop()
    return 0


def _flower(settings: Settings, *, controls: bool) -> ReadOnlyFlower:
    if not controls:
        app = celery_app(settings.broker_url or redis_server.flower_url(settings.home))
        return ReadOnlyFlower(capp=app, options=options, **tornado_settings)
    app = celery_app(settings.broker_url or redis_server.operator_url(settings.home))
    app.control = EndpointControl(app)
    app.control.lookup = EndpointLookup(Database(settings.database))
    return ControllingFlower(capp=app, options=options, **tornado_settings)


class ReadOnlyFlower(Flower):
    """A Flower that sends no commands to workers: it uses their events and has no permission for more."""

    def update_workers(self, workername: str | None = None) -> asyncio.Future[None]:
        """Send nothing; return a completed future."""
        done: asyncio.Future[None] = self.io_loop.asyncio_loop.create_future()
        done.set_result(None)
        return done


class ControllingFlower(ReadOnlyFlower):
    """A Flower that queries one worker at a time, when its page is opened or it is changed."""

    def update_workers(self, workername: str | None = None) -> asyncio.Future[None]:
        """Query that worker; never all workers of all endpoints."""
        return self.inspector.inspect(workername) if workername else super().update_workers()

    @property
    def workers(self) -> dict[str, Any]:
        """Workers by name, including workers known only from events, so that they can be controlled."""
        return {**{name: {} for name in self.events.state.workers}, **self.inspector.workers}


def celery_app(url: str) -> Celery:
    """Return a Celery app that receives the events of all endpoints from the broker at ``url``."""
    app = Celery("umbel-monitor", broker=url, set_as_current=False)
    # events are ordered by their own clocks; those of an endpoint must not set this one
    app.clock.adjust = lambda other: app.clock.forward()
    app.conf.update(
        broker_transport="federation.flower.events:Transport",
        # kombu prepends the prefix to its channel pattern; the wildcard matches every endpoint
        broker_transport_options={"fanout_prefix": "/ep:*:/{db}.", "health_check_interval": 10},
        broker_connection_retry_on_startup=True,
        event_queue_expires=None,
        # the only queue on Flower's broker page: always empty, and Flower's account may read its length
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


def _exit(_number: int, _frame: FrameType | None) -> None:
    sys.exit(0)
