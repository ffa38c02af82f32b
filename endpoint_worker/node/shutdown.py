"""When a worker in a batch job shuts down: before the job ends, without work or broker, or on request.

A worker that shuts down accepts no more bundles, returns what has not started, lets running calls continue as
long as the job lasts, and exits. Calls interrupted by the end of the job are reported as such, not as failed.
"""

from __future__ import annotations

import functools
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click
from redis.exceptions import RedisError

from umbel.protocol import names
from umbel.protocol.messages import Bundle, Interruption
from umbel.system.clock import steady
from umbel.system.threads import GuardedThread

from ..broker.client import BROKER_ERRORS
from ..broker.routes import Route
from .node import Node

log = logging.getLogger(__name__)

#: Seconds between two checks.
TICK = 1.0
#: Seconds between two pings of the broker.
PING_INTERVAL = 10.0
#: Seconds to wait for messages that were in flight when the worker stopped consuming.
IN_FLIGHT = 1.5
#: Running calls are stopped this long (seconds) before the end of the job, so that their reports can be sent.
REPORT_SECONDS = 20.0
#: Share of a job's time in which its worker accepts calls of any length.
FRESH = 0.1
#: Drain time without a limit, seconds.
UNLIMITED = 1e9


@dataclass(frozen=True)
class ShutdownConditions:
    """Conditions under which a worker shuts down. Seconds, 0: no limit; ``walltime_end``: since 1970."""

    block: str = ""
    walltime_end: float = 0.0
    drain_margin: float = 60.0
    idle: float = 0.0
    broker_gone: float = 0.0
    #: routes to the broker, in the order in which they are tried; empty: only its registered address
    routes: tuple[Route, ...] = ()


def _steady_clock() -> Callable[[], float]:
    """Return the time of now, kept by a steady clock."""
    offset = time.time() - steady()
    return lambda: steady() + offset


_SECONDS = click.FloatRange(0)
_OPTIONS = (
    click.option("--block", default="", help="Batch job that this worker belongs to."),
    click.option(
        "--walltime-end", type=_SECONDS, default=0.0, help="End of the batch job (seconds since 1970)."
    ),
    click.option(
        "--drain-margin",
        type=_SECONDS,
        default=60.0,
        help="Seconds before the end of the batch job at which the worker stops taking calls.",
    ),
    click.option(
        "--exit-when-idle", type=_SECONDS, default=0.0, help="Exit after this many seconds without work."
    ),
    click.option(
        "--exit-when-broker-gone",
        type=_SECONDS,
        default=0.0,
        help="Exit after the broker has been unreachable for this many seconds.",
    ),
    click.option(
        "--way",
        "route",
        multiple=True,
        metavar="NAME=HOST:PORT",
        help="A route to the broker; repeat to try several. The first one that works is used.",
    ),
)


def shutdown_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a worker in a batch job to a command, which receives them as ``conditions``."""

    @functools.wraps(command)
    def with_conditions(
        *args: Any,
        block: str,
        walltime_end: float,
        drain_margin: float,
        exit_when_idle: float,
        exit_when_broker_gone: float,
        route: tuple[str, ...],
        **options: Any,
    ) -> Any:
        routes = tuple(map(Route.parse, route))
        conditions = ShutdownConditions(
            block, walltime_end, drain_margin, exit_when_idle, exit_when_broker_gone, routes
        )
        return command(*args, conditions=conditions, **options)

    for option in _OPTIONS:
        with_conditions = option(with_conditions)
    return with_conditions


class ShutdownMonitor:
    """Checks a node's shutdown conditions and ends its process when one is met.

    ``clock``: seconds since 1970, as in ``conditions``; by default unaffected when the node's clock is set.
    """

    def __init__(self, node: Node, conditions: ShutdownConditions, clock: Callable[[], float] | None = None):
        self._thread = GuardedThread(self._run, name="umbel-shutdown")
        self._node = node
        self._conditions = conditions
        self._clock = clock = clock or _steady_clock()
        self._consumer: Any = None
        self._reason = ""
        self._wake = threading.Event()
        self._idle_since = self._broker_seen = time.monotonic()
        self._pinged_at = 0.0
        if conditions.walltime_end:
            self._fresh_until = clock() + FRESH * (conditions.walltime_end - clock())
            node.fits = self.fits

    def fits(self, bundle: Bundle) -> bool:
        """Return whether a bundle's calls can end before the node's job does; if not, shut the node down.

        In a job that has just begun everything fits, because no job will have more time.
        """
        now = self._clock()
        left = self._conditions.walltime_end - REPORT_SECONDS - now
        if bundle.seconds <= left or now < self._fresh_until:
            return True
        self.shut_down(
            f"waiting calls take {bundle.seconds:.0f} s, the batch job ends in {max(0.0, left):.0f} s"
        )
        return False

    def attach(self, consumer: Any) -> None:
        """Store Celery's consumer, which changes with each connection."""
        self._consumer = consumer
        if self._reason:
            self._stop_consuming()

    def shut_down(self, reason: str) -> None:
        """Accept no more bundles, and exit when all accepted ones are done; callable from any thread."""
        self._reason = self._reason or reason
        self._wake.set()

    def start(self) -> None:
        """Start checking."""
        self._thread.start()

    def _run(self) -> None:
        """Wait until a condition is met, then shut the node down. After an unexpected error it runs again."""
        while not self._reason:
            self._reason = self._reason or self._due()
            self._wake.wait(TICK)
        log.info("node %s: shutting down: %s", self._node.name, self._reason)
        self._stop_consuming()
        time.sleep(IN_FLIGHT)
        # what has not started is returned at once, so that other nodes can take it
        end = self._conditions.walltime_end
        if end:
            self._node.supervisor.drain(max(0.0, end - REPORT_SECONDS - self._clock()), Interruption.WALLTIME)
        else:
            self._node.supervisor.drain(UNLIMITED)
        while self._node.working() and not self._out_of_time():
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)

    def _due(self) -> str:
        """Return the condition that is met, or ""."""
        conditions, now = self._conditions, time.monotonic()
        margin = max(conditions.drain_margin, REPORT_SECONDS + 2 * IN_FLIGHT)
        if conditions.walltime_end and self._clock() >= conditions.walltime_end - margin:
            return "the batch job ends soon"
        if self._node.working():
            self._idle_since = now
        elif conditions.idle and now - self._idle_since >= conditions.idle:
            return f"no work for {conditions.idle:g} s"
        if conditions.broker_gone:
            if now - self._pinged_at >= PING_INTERVAL:
                self._pinged_at = now
                self._ping()
            if time.monotonic() - self._broker_seen >= conditions.broker_gone:
                return f"broker unreachable for {conditions.broker_gone:g} s"
        return ""

    def _ping(self) -> None:
        try:
            self._node.client.ping()
            self._broker_seen = time.monotonic()
        except BROKER_ERRORS as error:
            log.debug("the broker does not respond: %s", error)

    def _out_of_time(self) -> bool:
        end = self._conditions.walltime_end
        if time.monotonic() - self._broker_seen >= self._conditions.broker_gone > 0:
            return True
        # a little later than the supervisor, which has then stopped the calls and reported why
        return bool(end) and self._clock() >= end - REPORT_SECONDS + 2 * IN_FLIGHT

    def _stop_consuming(self) -> None:
        if self._consumer is not None:
            self._consumer.call_soon(self._cancel)

    def _cancel(self) -> None:
        # in Celery's own thread; the queue stays, and its messages are for other workers
        try:
            self._consumer.cancel_task_queue(names.QUEUE)
        except (LookupError, AttributeError, OSError, RedisError) as error:
            log.debug("the consumer had already stopped: %s", error)
