"""Bundles that wait until their environment is built, so that they do not block other bundles."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from umbel.protocol.environment import Environment
from umbel.system.threads import GuardedThread

from ..environments.build import Builder
from ..environments.store import BuildError, Built, Interrupted, Store
from ..runners.job import Job

log = logging.getLogger(__name__)

#: Number of environments that one node builds at once.
BUILDERS = 2
#: Seconds between two checks of waiting bundles.
TICK = 0.1
#: All bundles but one for an environment are returned after this long (seconds, doubled up to the maximum),
#: because they take room in the endpoint's window that calls of other users could use.
FIRST_WAIT, LONGEST_WAIT = 1.0, 16.0
#: An unused environment may be removed from the cache after this long (seconds).
LEASE = 60.0


@dataclass
class _Build:
    """An environment that is being built, and the bundles that wait for it."""

    environment: Environment
    jobs: list[Job] = field(default_factory=list)
    wait: float = FIRST_WAIT
    #: None while it is being built, "" after success, otherwise the error
    problem: str | None = None


class BuildQueue:
    """Accepts bundles that need an environment.

    ``run`` is called with a bundle and its built environment, ``fail`` with a bundle and the reason why it
    cannot run, ``return_job`` with a returned bundle and the reason; from a thread of this class or the
    caller's.
    """

    def __init__(
        self,
        store: Store,
        builder: Builder,
        run: Callable[[Job, Built], None],
        fail: Callable[[Job, str], None],
        return_job: Callable[[Job, str], None],
    ):
        self._store, self._builder = store, builder
        self._run, self._fail, self._return_job = run, fail, return_job
        self._lock = threading.RLock()
        self._builds: dict[str, _Build] = {}
        #: builds that have ended with ``close``, whose bundles are being returned
        self._closing: dict[str, _Build] = {}
        self._used: dict[str, float] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._thread: GuardedThread | None = None
        self._closed = threading.Event()

    @property
    def held(self) -> list[str]:
        """Ids of the waiting bundles."""
        with self._lock:
            builds = [*self._builds.values(), *self._closing.values()]
            return [job.bundle.id for build in builds for job in build.jobs]

    def add(self, job: Job, environment: Environment) -> None:
        """Run a bundle in an environment: now, or when the environment is built."""
        digest = environment.digest
        with self._lock:
            if self._closed.is_set():
                self._return_job(job, "the worker is shutting down")
                return
            build = self._builds.get(digest)
            if build is None:
                built = self._store.lease(digest)
                if built is not None:
                    self._used[digest] = time.monotonic()
                    self._run(job, built)
                    return
                build = _Build(environment)
                self._start(digest, build)
                self._builds[digest] = build
            job.arrived = time.monotonic()
            build.jobs.append(job)

    def cancel(self, task_ids: Iterable[str]) -> None:
        """Skip these calls when their environment is ready."""
        wanted = set(task_ids)
        with self._lock:
            for build in self._builds.values():
                for job in build.jobs:
                    job.cancelled.update(c.task_id for c in job.bundle.calls if c.task_id in wanted)

    def mark_broken(self, digest: str, why: str) -> None:
        """Record that a runner could not start in this environment."""
        self._store.forget(digest, why)

    def release_unused(self, in_use: Iterable[str]) -> None:
        """Release environments that no runner uses; ``in_use``: digests of those in use."""
        keep = set(in_use)
        now = time.monotonic()
        with self._lock:
            for digest in self._store.leased():
                if digest not in keep and now - self._used.get(digest, 0.0) > LEASE:
                    self._store.release(digest)

    def close(self) -> None:
        """Return waiting bundles and stop running builds."""
        self._closed.set()
        with self._lock:
            builds, self._builds = self._builds, {}
            self._closing = builds
            pool = self._pool
        # after the bundles are removed: a stopped build must not fail them
        self._builder.stop()
        for build in builds.values():
            for job in build.jobs:
                self._return_job(job, "the worker is shutting down")
        self._closing = {}
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)

    def _start(self, digest: str, build: _Build) -> None:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(BUILDERS, thread_name_prefix="umbel-build")
        if self._thread is None:
            self._thread = GuardedThread(self._serve, name="umbel-environments", stop=self._closed)
            self._thread.start()
        self._pool.submit(self._build, digest, build)

    def _build(self, digest: str, build: _Build) -> None:
        began = time.monotonic()
        try:
            self._store.build(digest, partial(self._builder.make, build.environment), self._closed.is_set)
        except Interrupted:
            log.info("environment %s: build stopped because the worker is shutting down", digest[:12])
        except (BuildError, OSError) as error:
            build.problem = str(error) or type(error).__name__
            log.warning("environment %s: build failed: %s", digest[:12], error)
        except BaseException as error:
            # bundles wait for the outcome, whatever went wrong
            build.problem = f"unexpected error: {error!r}"
            log.exception("environment %s: build failed", digest[:12])
        else:
            build.problem = ""
            log.info("environment %s: ready after %.1f s", digest[:12], time.monotonic() - began)

    def _serve(self) -> None:
        while not self._closed.wait(TICK):
            with self._lock:
                for digest, build in list(self._builds.items()):
                    if build.problem is None:
                        self._return_others(build)
                        continue
                    self._deliver(digest, build)
                    del self._builds[digest]

    def _deliver(self, digest: str, build: _Build) -> None:
        try:
            built = self._store.lease(digest) if not build.problem else None
        except Exception as error:
            log.exception("environment %s: cannot be used", digest[:12])
            built, build.problem = None, f"unexpected error: {error!r}"
        self._used[digest] = time.monotonic()
        while build.jobs:
            job = build.jobs[0]
            try:
                self._hand_over(job, built, build.problem or "")
            except Exception as error:
                # one bundle's error must not keep the others waiting
                log.exception("bundle %s: cannot run in environment %s", job.bundle.id, digest[:12])
                self._fail(job, f"unexpected error: {error!r}")
            del build.jobs[0]

    def _hand_over(self, job: Job, built: Built | None, problem: str) -> None:
        if built is not None:
            self._run(job, built)
        elif problem:
            self._fail(job, problem)
        else:
            self._return_job(job, "its environment was removed immediately: the cache is too small for it")

    def _return_others(self, build: _Build) -> None:
        now = time.monotonic()
        if len(build.jobs) > 1 and now - build.jobs[1].arrived > build.wait:
            for job in build.jobs[1:]:
                self._return_job(job, "its environment is being built")
            del build.jobs[1:]
            build.wait = min(LONGEST_WAIT, 2 * build.wait)
