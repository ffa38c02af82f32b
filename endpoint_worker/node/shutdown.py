"""When a worker in a batch job leaves by itself: before its job's end, without work or broker, or asked to.

To leave is to take nothing more, give back what has not started, let what runs run as long as the job lasts,
and end. Calls that the end of the job cuts off are reported as such: that is not their failure.
"""

from __future__ import annotations

import functools
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click
from redis.exceptions import RedisError

from umbel.protocol import names
from umbel.protocol.messages import Bundle, Interruption

from ..broker.client import BROKER_ERRORS, connect
from ..broker.routes import Way
from .node import Node

log = logging.getLogger(__name__)

#: Seconds between two looks.
TICK = 1.0
#: Seconds between two questions whether the broker is there.
ASK_BROKER = 10.0
#: A message may have been on its way when the worker stopped to take any, seconds.
SETTLE = 1.5
#: What is left at the job's end is stopped so long before, seconds, for its reports to get out.
LAST_WORDS = 20.0
#: Share of a job's time in which its worker takes calls of any length.
FRESH = 0.1
#: What runs may go on, seconds.
FOR_EVER = 1e9


@dataclass(frozen=True)
class Terms:
    """How long a worker stays. Times in seconds, 0: no limit; ``walltime_end``: seconds since 1970."""

    block: str = ""
    walltime_end: float = 0.0
    drain_margin: float = 60.0
    idle: float = 0.0
    broker_gone: float = 0.0
    #: ways to the broker, in the order in which they are tried; none: its registered address
    ways: tuple[Way, ...] = ()

    def node_name(self, given: str | None) -> str | None:
        """What the node is called: ``<block>.<host>`` within a block."""
        return given or (f"{self.block}.{socket.gethostname()}" if self.block else None)


def terms_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of a worker in a batch job; it gets them as ``terms``."""

    @functools.wraps(command)
    def with_terms(
        *args: Any,
        block: str,
        walltime_end: float,
        drain_margin: float,
        exit_when_idle: float,
        exit_when_broker_gone: float,
        way: tuple[str, ...],
        **options: Any,
    ) -> Any:
        ways = tuple(map(Way.parse, way))
        terms = Terms(block, walltime_end, drain_margin, exit_when_idle, exit_when_broker_gone, ways)
        return command(*args, terms=terms, **options)

    seconds = click.FloatRange(0)
    for option in (
        click.option("--block", default="", help="Batch job that this worker belongs to."),
        click.option(
            "--walltime-end", type=seconds, default=0.0, help="When that job ends (seconds since 1970)."
        ),
        click.option(
            "--drain-margin", type=seconds, default=60.0, help="Take no calls so long before its end."
        ),
        click.option("--exit-when-idle", type=seconds, default=0.0, help="End after so long without work."),
        click.option(
            "--exit-when-broker-gone", type=seconds, default=0.0, help="End when the broker is gone so long."
        ),
        click.option(
            "--way",
            multiple=True,
            metavar="NAME=HOST:PORT",
            help="A way to the broker; the first that works.",
        ),
    ):
        with_terms = option(with_terms)
    return with_terms


class Leaver(threading.Thread):
    """Watches over the terms of a node and ends its process when they are met."""

    def __init__(self, node: Node, terms: Terms, clock: Callable[[], float] = time.time):
        super().__init__(name="umbel-leaver", daemon=True)
        self._node = node
        self._terms = terms
        self._clock = clock
        self._consumer: Any = None
        self._reason = ""
        self._wake = threading.Event()
        self._idle_since = self._heard = time.monotonic()
        self._asked = 0.0
        self._client = connect(node.broker_url, timeout=5.0)
        if terms.walltime_end:
            self._fresh_until = clock() + FRESH * (terms.walltime_end - clock())
            node.fits = self.fits

    def fits(self, bundle: Bundle) -> bool:
        """Whether the calls of a bundle can end before the node's job does; if not, the node leaves.

        In a job that has just begun everything fits: there will be none with more time.
        """
        now = self._clock()
        left = self._terms.walltime_end - LAST_WORDS - now
        if bundle.seconds <= left or now < self._fresh_until:
            return True
        self.leave(f"calls of {bundle.seconds:.0f} s wait, its job ends in {max(0.0, left):.0f} s")
        return False

    def attach(self, consumer: Any) -> None:
        """Celery's consumer, of each connection."""
        self._consumer = consumer
        if self._reason:
            self._stop_taking()

    def leave(self, reason: str) -> None:
        """Take nothing more, and end when all that was taken is done; from any thread."""
        self._reason = self._reason or reason
        self._wake.set()

    def run(self) -> None:
        """Watch until it is time, then see the node out."""
        while not self._reason:
            self._reason = self._reason or self._due()
            self._wake.wait(TICK)
        log.info("this worker leaves: %s", self._reason)
        self._stop_taking()
        time.sleep(SETTLE)
        # what has not started goes back at once: others may take it
        end = self._terms.walltime_end
        if end:
            self._node.supervisor.drain(max(0.0, end - LAST_WORDS - self._clock()), Interruption.WALLTIME)
        else:
            self._node.supervisor.drain(FOR_EVER)
        while self._node.held() and not self._out_of_time():
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)

    def _due(self) -> str:
        """Why it is time to leave, or ""."""
        terms, now = self._terms, time.monotonic()
        margin = max(terms.drain_margin, LAST_WORDS + 2 * SETTLE)
        if terms.walltime_end and self._clock() >= terms.walltime_end - margin:
            return "its job ends soon"
        if self._node.held():
            self._idle_since = now
        elif terms.idle and now - self._idle_since >= terms.idle:
            return f"no work for {terms.idle:g} s"
        if terms.broker_gone:
            if now - self._asked >= ASK_BROKER:
                self._asked = now
                self._ask()
            if time.monotonic() - self._heard >= terms.broker_gone:
                return f"no broker for {terms.broker_gone:g} s"
        return ""

    def _ask(self) -> None:
        try:
            self._client.ping()
            self._heard = time.monotonic()
        except BROKER_ERRORS as error:
            log.debug("the broker does not answer: %s", error)

    def _out_of_time(self) -> bool:
        end = self._terms.walltime_end
        if time.monotonic() - self._heard >= self._terms.broker_gone > 0:
            return True
        # a little later than the supervisor, which then has stopped the calls and reported why
        return bool(end) and self._clock() >= end - LAST_WORDS + 2 * SETTLE

    def _stop_taking(self) -> None:
        if self._consumer is not None:
            self._consumer.call_soon(self._cancel)

    def _cancel(self) -> None:
        # in Celery's own thread; the queue stays, and its messages are for other workers
        try:
            self._consumer.cancel_task_queue(names.QUEUE)
        except (LookupError, AttributeError, OSError, RedisError) as error:
            log.debug("nothing is taken any more anyway: %s", error)
