"""Bundles that wait until their environment is built, so that they keep nobody else waiting."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from umbel.protocol.environment import Environment

from ..environments.build import Builder
from ..environments.store import BuildError, Built, Interrupted, Store
from ..runners.job import Job

log = logging.getLogger(__name__)

#: Environments that are built at once on one node.
BUILDERS = 2
#: Seconds between two looks at what waits.
TICK = 0.1
#: All bundles but one for an environment go back after so long (seconds), doubled up to the most: they take
#: room in the endpoint's window that calls of other users could use.
FIRST_HOLD, LONGEST_HOLD = 1.0, 16.0
#: An environment that no runner has and nobody asked for so long (seconds) may be removed from the cache.
LEASE = 60.0


@dataclass
class _Order:
    """An environment that is being built, and who waits for it."""

    environment: Environment
    jobs: list[Job] = field(default_factory=list)
    hold: float = FIRST_HOLD
    #: how it ended: "" for well
    problem: str | None = None


class Desk:
    """Takes bundles with an environment.

    ``go``: called with a bundle and its built environment; ``fail``: with a bundle and why it cannot run;
    ``back``: with a bundle that goes back, and why. All from a thread of the desk's own, or the taker's.
    """

    def __init__(
        self,
        store: Store,
        builder: Builder,
        go: Callable[[Job, Built], None],
        fail: Callable[[Job, str], None],
        back: Callable[[Job, str], None],
    ):
        self._store, self._builder = store, builder
        self._go, self._fail, self._back = go, fail, back
        self._lock = threading.RLock()
        self._orders: dict[str, _Order] = {}
        self._used: dict[str, float] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    @property
    def held(self) -> list[str]:
        """Ids of the bundles that wait."""
        with self._lock:
            return [job.bundle.id for order in self._orders.values() for job in order.jobs]

    def take(self, job: Job, environment: Environment) -> None:
        """Have a bundle run in an environment: now, or when it is built."""
        digest = environment.digest
        with self._lock:
            if self._closed.is_set():
                self._back(job, "its worker is stopping")
                return
            order = self._orders.get(digest)
            if order is None:
                built = self._store.lease(digest)
                if built is not None:
                    self._used[digest] = time.monotonic()
                    self._go(job, built)
                    return
                order = self._orders[digest] = _Order(environment)
                self._start(digest, order)
            job.arrived = time.monotonic()
            order.jobs.append(job)

    def cancel(self, task_ids: Iterable[str]) -> None:
        """These calls shall not run when their environment is there."""
        wanted = set(task_ids)
        with self._lock:
            for order in self._orders.values():
                for job in order.jobs:
                    job.cancelled.update(c.task_id for c in job.bundle.calls if c.task_id in wanted)

    def broken(self, digest: str, why: str) -> None:
        """A runner could not start in this environment."""
        self._store.forget(digest, why)

    def tidy(self, in_use: Iterable[str]) -> None:
        """Let go of environments that no runner has; ``in_use``: digests of those that some have."""
        keep = set(in_use)
        now = time.monotonic()
        with self._lock:
            for digest in self._store.leased():
                if digest not in keep and now - self._used.get(digest, 0.0) > LEASE:
                    self._store.release(digest)

    def close(self) -> None:
        """Give back what waits and end what is being built."""
        self._closed.set()
        with self._lock:
            orders, self._orders = self._orders, {}
            pool = self._pool
        # after nobody waits for them: their end is not the calls' failure
        self._builder.stop()
        for order in orders.values():
            for job in order.jobs:
                self._back(job, "its worker is stopping")
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)

    def _start(self, digest: str, order: _Order) -> None:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(BUILDERS, thread_name_prefix="umbel-build")
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="umbel-environments", daemon=True)
            self._thread.start()
        self._pool.submit(self._build, digest, order)

    def _build(self, digest: str, order: _Order) -> None:
        began = time.monotonic()
        try:
            self._store.build(digest, partial(self._builder.make, order.environment), self._closed.is_set)
        except Interrupted:
            log.info("building environment %s ends with the worker", digest[:12])
        except (BuildError, OSError) as error:
            order.problem = str(error)
            log.warning("environment %s cannot be built: %s", digest[:12], error)
        else:
            order.problem = ""
            log.info("environment %s is ready after %.1f s", digest[:12], time.monotonic() - began)

    def _serve(self) -> None:
        while not self._closed.wait(TICK):
            with self._lock:
                for digest, order in list(self._orders.items()):
                    if order.problem is not None:
                        del self._orders[digest]
                        self._deliver(digest, order)
                    else:
                        self._let_others_in(order)

    def _deliver(self, digest: str, order: _Order) -> None:
        built = self._store.lease(digest) if not order.problem else None
        self._used[digest] = time.monotonic()
        for job in order.jobs:
            if built is not None:
                self._go(job, built)
            elif order.problem:
                self._fail(job, order.problem)
            else:
                self._back(job, "its environment was removed at once: there is no room for it")

    def _let_others_in(self, order: _Order) -> None:
        now = time.monotonic()
        if len(order.jobs) > 1 and now - order.jobs[1].arrived > order.hold:
            for job in order.jobs[1:]:
                self._back(job, "its environment is being built")
            del order.jobs[1:]
            order.hold = min(LONGEST_HOLD, 2 * order.hold)
