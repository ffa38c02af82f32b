"""Which idle runner takes which waiting bundle, and when a runner gives way to one of another kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import replace

from ..runners.job import Job
from ..runners.process import RunnerOptions
from ..runners.slot import Slot
from .queue import JobQueue
from .runner_pool import RunnerPool

#: A bundle that waited less (seconds) does not replace an idle runner for which others wait: changing back
#: and forth would cost more than it gives.
SWITCH_AFTER = 0.2
#: A bundle that waited this long (seconds) behind running ones is given back; and where no runner starts.
WAIT_FOR_SLOT, WAIT_FOR_RUNNER = 0.4, 5.0


def widened(options: RunnerOptions, cores: int) -> RunnerOptions:
    """The same for runners whose calls occupy so many slots."""
    return options if cores == 1 else replace(options, key=(options.key, cores), cores=cores)


def place(
    pool: RunnerPool, queue: JobQueue, default: RunnerOptions, now: float
) -> Iterator[tuple[Slot | None, Job]]:
    """Take bundles out of ``waiting`` that can begin now, each with its slot; None for a hollow one.

    First come, first served among bundles for one kind of runner. A bundle whose kind has no idle runner does
    not hold up those of other kinds behind it, and gets one in place of a runner that nobody waits for, or
    after a while of any idle one: the longest wait comes first, so nobody starves.

    A bundle that wants several slots holds up all behind it until there are enough: each slot that becomes
    free is kept for it, so nobody overtakes it.
    """
    if not queue:
        return
    jobs = queue.jobs()
    blocked: Counter[Hashable] = Counter()
    for job in jobs:
        if not pool.idle:
            return
        if job.given_back:
            queue.remove(job)
            yield None, job
            continue
        if job.cores > pool.wanted:
            continue
        options = job.options or default
        slot = pool.choose(job.bundle.function.sha256, options.key)
        if slot is not None:
            queue.remove(job)
            yield slot, job
            continue
        if options.cores > 1:
            if pool.widen(options):
                continue
            return
        blocked[options.key] += 1
        spared: set[Hashable] = set()
        if now - job.arrived < SWITCH_AFTER:
            spared = {(other.options or default).key for other in jobs}
        pool.convert(options, blocked[options.key], spared)


def overdue(pool: RunnerPool, queue: JobQueue, now: float) -> Iterator[tuple[Job, str]]:
    """Bundles that must not wait here any longer, for other nodes may be free; and why.

    The first one that wants several slots stays while some are kept for it, and when it comes a second time:
    else it might be sent round for ever.
    """
    behind = pool.busy and not pool.starting
    limit = WAIT_FOR_SLOT if behind else WAIT_FOR_RUNNER
    stays = next((job for job in queue.jobs() if not job.given_back and 1 < job.cores <= pool.wanted), None)
    for job in queue.overdue(now, WAIT_FOR_SLOT):
        if job.cores > pool.wanted:
            yield job, f"it wants {job.cores} slots, this node has {pool.wanted}"
        elif now - job.arrived <= limit:
            continue
        elif job is not stays or not (pool.idle or queue.returned(job)):
            yield job, "it waited behind long calls" if behind else "no runner starts"


def withdraw(queue: JobQueue, key: Hashable) -> list[Job]:
    """Take out all bundles, but hollow ones, that want a kind of runner that does not start: others go on."""
    found = [j for j in queue.jobs() if j.options is not None and j.options.key == key and not j.given_back]
    for job in found:
        queue.remove(job)
    return found
