"""Accepted bundles: their outcomes and callbacks, delivered exactly until each bundle has ended."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from umbel.protocol.messages import Outcome

from ..runners.job import Job, Sink, lost, refused, unstarted
from ..runners.slot import Slot

log = logging.getLogger(__name__)

Notify = Callable[[list[Callable[[], None]]], None]


class AcceptedBundles:
    """Bundles of a supervisor that have calls without an outcome.

    ``sink`` receives outcomes; ``notify`` runs callbacks of jobs in another thread. When the sink fails, the
    bundle still ends here: the node no longer lists it as held, so the service sends its calls again.
    ``add`` is called by any thread, all other methods by the supervisor's.
    """

    def __init__(self, sink: Sink, notify: Notify):
        self._sink = sink
        self._notify = notify
        self._jobs: dict[str, Job] = {}
        self._callbacks: list[Callable[[], None]] = []
        self._ended: list[tuple[Job, list[Outcome]]] = []

    def __bool__(self) -> bool:
        return bool(self._jobs)

    def add(self, job: Job) -> None:
        """Add a bundle."""
        self._jobs[job.bundle.id] = job

    def get(self, bundle_id: str) -> Job | None:
        """Return an accepted bundle, or None."""
        return self._jobs.get(bundle_id)

    @property
    def ids(self) -> list[str]:
        """Ids of the bundles."""
        return list(self._jobs)

    def started(self, job: Job, pid: int) -> None:
        """A runner has the bundle."""
        self._callbacks.append(partial(job.on_accept, job.bundle.id, pid))

    def emit(self, job: Job, outcomes: list[Outcome]) -> None:
        """Deliver outcomes of a bundle."""
        if not outcomes:
            return
        job.count(outcomes)
        try:
            self._sink(job.bundle.id, outcomes)
        except Exception:
            # any error of the receiver: the service notices bundles without an outcome that no node holds
            log.exception("bundle %s: cannot deliver %d outcomes", job.bundle.id, len(outcomes))

    def end_later(self, job: Job, outcomes: list[Outcome]) -> None:
        """End a bundle with its last outcomes at the next ``flush``."""
        self._ended.append((job, outcomes))

    def end(self, job: Job, outcomes: list[Outcome]) -> None:
        """End a bundle with its last outcomes."""
        # the sink gets the outcomes first, so that the bundle is always listed as held
        self.emit(job, outcomes)
        self._jobs.pop(job.bundle.id, None)
        self._callbacks.append(job.on_done)

    def give_back(self, job: Job, message: str) -> None:
        """Return all calls of a bundle that has not started; its callbacks follow with ``discard``."""
        self.emit(job, unstarted(job.bundle, message, job.cancelled))
        self._jobs.pop(job.bundle.id, None)

    def discard(self, job: Job) -> None:
        """Call the callbacks of a bundle of which no call runs."""
        self._jobs.pop(job.bundle.id, None)
        self._callbacks += [partial(job.on_accept, "", 0), job.on_done]

    def refuse(self, job: Job, code: str, how: str) -> None:
        """Fail all calls of a bundle, because its environment does not work."""
        self.emit(job, refused(job.bundle, code, how, job.cancelled))
        self.discard(job)
        self._callbacks.append(partial(job.on_broken, how))

    def abandon(self, job: Job, error: Exception, slot: Slot | None = None, *, accepted: bool = True) -> None:
        """End a bundle after an unexpected error while it was handled; only its own runner is killed.

        ``accepted``: ``started`` was called for it.
        """
        log.error(
            "bundle %s, function %s: unexpected error; its calls are lost",
            job.bundle.id,
            job.bundle.function.name,
            exc_info=error,
        )
        message = f"unexpected error of the worker: {type(error).__name__}: {error}"[:500]
        outcomes = lost(job.bundle, message)
        if slot is not None:
            execution, slot.execution = slot.execution, None
            if execution is not None:
                outcomes = execution.abandon(message)
            slot.kill()
        if job.bundle.id not in self._jobs:
            return
        if accepted:
            self.end(job, outcomes)
        else:
            self.emit(job, outcomes)
            self.discard(job)

    def flush(self) -> None:
        """Deliver the outcomes of ended bundles and pass on all callbacks."""
        while self._ended:
            self.end(*self._ended.pop(0))
        if self._callbacks:
            # all of one iteration at once: waking a thread costs more than the callbacks
            self._notify(self._callbacks)
            self._callbacks = []
