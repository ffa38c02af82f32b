"""Which idle runner takes which waiting bundle, and when a runner gives way to one of another kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator

from .child import RunnerOptions
from .crew import Crew
from .jobs import Job
from .slot import Slot
from .waiting import Waiting

#: A bundle that waited less (seconds) does not replace an idle runner for which others wait: changing back
#: and forth would cost more than it gives.
SWITCH_AFTER = 0.2


def place(
    crew: Crew, waiting: Waiting, default: RunnerOptions, now: float
) -> Iterator[tuple[Slot | None, Job]]:
    """Take bundles out of ``waiting`` that can begin now, each with its slot; None for a hollow one.

    First come, first served among bundles for one kind of runner. A bundle whose kind has no idle runner does
    not hold up those of other kinds behind it, and gets one in place of a runner that nobody waits for, or
    after a while of any idle one: the longest wait comes first, so nobody starves.
    """
    if not waiting:
        return
    jobs = waiting.jobs()
    blocked: Counter[Hashable] = Counter()
    for job in jobs:
        if not crew.idle:
            return
        if job.hollow:
            waiting.remove(job)
            yield None, job
            continue
        options = job.options or default
        slot = crew.choose(job.bundle.function.sha256, options.key)
        if slot is not None:
            waiting.remove(job)
            yield slot, job
            continue
        blocked[options.key] += 1
        spared: set[Hashable] = set()
        if now - job.arrived < SWITCH_AFTER:
            spared = {(other.options or default).key for other in jobs}
        crew.convert(options, blocked[options.key], spared)
