"""Which idle runner takes which waiting bundle, and when a runner is replaced by one of another kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import replace

from ..runners.job import Job
from ..runners.process import RunnerOptions
from ..runners.slot import Slot
from .queue import JobQueue
from .runner_pool import RunnerPool

#: A bundle that has waited less than this (seconds) does not replace an idle runner that other bundles wait
#: for: switching back and forth would cost more than it gains.
SWITCH_AFTER = 0.2
#: Bundles are returned after waiting this long (seconds) behind running ones, or for a runner to start.
WAIT_FOR_SLOT, WAIT_FOR_RUNNER = 0.4, 5.0
_RESERVED = object()


def widened(options: RunnerOptions, cores: int) -> RunnerOptions:
    """The same options for runners whose calls occupy ``cores`` slots."""
    if cores == 1:
        return options
    return replace(options, key=(options.key, cores), fresh_key=(options.fresh, cores), cores=cores)


def place(
    pool: RunnerPool, queue: JobQueue, default: RunnerOptions, now: float
) -> Iterator[tuple[Job, Slot | Exception | None]]:
    """Remove bundles from ``queue`` that can start now, each with its slot.

    Instead of a slot: None if the bundle was returned before, an exception if it cannot be placed.

    First come, first served among bundles for one kind of runner. A bundle whose kind has no idle runner does
    not block bundles of other kinds behind it. A parked runner of its kind takes the place of an idle one at
    once. Otherwise a new one replaces an idle runner that no bundle waits for or, after a while, any idle
    runner; the longest wait comes first, so no bundle starves.

    A bundle that needs several slots blocks all bundles behind it until there are enough: each slot that
    becomes free is reserved for it, so no bundle overtakes it.
    """
    if not queue:
        return
    jobs = queue.jobs()
    blocked: Counter[Hashable] = Counter()
    for job in jobs:
        if not pool.idle:
            return
        if job.returned:
            queue.remove(job)
            yield job, None
            continue
        if job.cores > pool.size:
            continue
        try:
            found = _find(pool, job, jobs, blocked, default, now)
        except Exception as error:
            # one bundle must not keep the others from starting
            queue.remove(job)
            yield job, error
            continue
        if isinstance(found, Slot):
            queue.remove(job)
            yield job, found
        elif found is _RESERVED:
            return


def _find(
    pool: RunnerPool,
    job: Job,
    jobs: list[Job],
    blocked: Counter[Hashable],
    default: RunnerOptions,
    now: float,
) -> Slot | object | None:
    """Return a slot for a bundle; _RESERVED if bundles behind it must wait, too; else None."""
    options = job.options or default
    slot = pool.choose(job.bundle.function.sha256, options)
    if slot is not None:
        return slot
    if options.cores > 1:
        return None if pool.widen(options) else _RESERVED
    blocked[options.fresh] += 1
    spared: set[Hashable] = set()
    if now - job.arrived < SWITCH_AFTER:
        spared = {(other.options or default).key for other in jobs}
    pool.convert(options, blocked[options.fresh], spared)
    return None


def overdue(pool: RunnerPool, queue: JobQueue, now: float) -> Iterator[tuple[Job, str]]:
    """Yield bundles that must not wait here any longer, because other nodes may be free, and the reason.

    The first one that needs several slots stays while slots are reserved for it, and when it arrives a second
    time; otherwise it might be passed around indefinitely.
    """
    behind = pool.busy and not pool.starting
    limit = WAIT_FOR_SLOT if behind else WAIT_FOR_RUNNER
    stays = next((job for job in queue.jobs() if not job.returned and 1 < job.cores <= pool.size), None)
    for job in queue.overdue(now, WAIT_FOR_SLOT):
        if job.cores > pool.size:
            yield job, f"it needs {job.cores} slots, this node has {pool.size}"
        elif now - job.arrived <= limit:
            continue
        elif job is not stays or not (pool.idle or queue.returned(job)):
            yield job, "it waited behind long calls" if behind else "no runner could be started"


def withdraw(queue: JobQueue, fresh: Hashable) -> list[Job]:
    """Remove all bundles, except returned ones, that need a kind of runner that cannot start."""
    found = [j for j in queue.jobs() if j.options is not None and j.options.fresh == fresh and not j.returned]
    for job in found:
        queue.remove(job)
    return found
