"""Bundles that wait for a slot, and what is known to be cancelled."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable, Iterable

from ..runners.job import Job

#: A cancelled call is remembered this long (seconds): its bundle may still be on its way.
CANCELLED_SECONDS = 3600.0
#: So many calls that were given back are remembered.
MAX_RETURNED = 10_000


class JobQueue:
    """First come, first served. ``now`` is the monotonic clock; one thread uses it."""

    def __init__(self) -> None:
        self._jobs: deque[Job] = deque()
        self._cancelled: dict[str, float] = {}
        #: calls for several slots that were given back, the last ones
        self._returned: OrderedDict[str, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, job: Job, now: float) -> None:
        """Put a bundle at the end."""
        job.arrived = now
        if self._cancelled:
            job.cancelled.update(c.task_id for c in job.bundle.calls if c.task_id in self._cancelled)
        self._jobs.append(job)

    def jobs(self) -> list[Job]:
        """All bundles, in the order of their turns."""
        return list(self._jobs)

    def keys(self) -> list[Hashable]:
        """What kinds of runners they want, where that is not the usual one."""
        return [job.options.key for job in tuple(self._jobs) if job.options is not None]

    def remove(self, job: Job) -> None:
        """Take a bundle out, whose turn need not have come."""
        self._jobs.remove(job)

    def pop(self) -> Job:
        """Take the first bundle out."""
        return self._jobs.popleft()

    def overdue(self, now: float, limit: float) -> list[Job]:
        """Bundles that have calls and have waited longer than ``limit`` seconds."""
        return [job for job in self._jobs if not job.given_back and now - job.arrived > limit]

    def mark_returned(self, job: Job) -> None:
        """Note that a bundle is given back."""
        job.given_back = True
        if job.cores > 1:
            self._returned.update(dict.fromkeys(call.task_id for call in job.bundle.calls))
            while len(self._returned) > MAX_RETURNED:
                self._returned.popitem(last=False)

    def returned(self, job: Job) -> bool:
        """Tell whether calls of a bundle for several slots were given back before."""
        return any(call.task_id in self._returned for call in job.bundle.calls)

    def cancel(self, task_ids: set[str], now: float) -> None:
        """Mark calls that wait, and those that come later."""
        self._cancelled.update(dict.fromkeys(task_ids, now + CANCELLED_SECONDS))
        for job in self._jobs:
            job.cancelled.update(c.task_id for c in job.bundle.calls if c.task_id in task_ids)

    def forget_cancelled(self, now: float) -> None:
        """Forget cancelled calls that nobody asks for any more."""
        old: Iterable[str] = [task_id for task_id, until in self._cancelled.items() if until < now]
        for task_id in old:
            del self._cancelled[task_id]
