"""Bundles that wait for a slot, and cancelled calls."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable
from itertools import takewhile

from ..runners.job import Job

#: A cancelled call is remembered this long (seconds): its bundle may still be on its way.
CANCELLED_SECONDS = 3600.0
#: Maximum number of cancelled calls that are remembered.
MAX_CANCELLED = 1_000_000
#: Maximum number of returned calls that are remembered.
MAX_RETURNED = 10_000


class JobQueue:
    """First come, first served, behind bundles that pass.

    ``now`` is the monotonic clock; used by one thread.
    """

    def __init__(self) -> None:
        self._jobs: deque[Job] = deque()
        #: until when cancelled calls are remembered; the oldest first
        self._cancelled: OrderedDict[str, float] = OrderedDict()
        #: the most recently returned calls that need several slots
        self._returned: OrderedDict[str, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, job: Job, now: float) -> None:
        """Append a bundle; one that passes goes before the others, but not before a wide one that is next."""
        job.arrived = now
        if self._cancelled:
            job.cancelled.update(c.task_id for c in job.bundle.calls if c.task_id in self._cancelled)
        if not job.bundle.passes:
            self._jobs.append(job)
            return
        # the slots that become free are kept for a wide bundle that is next
        ahead = takewhile(lambda other: other.bundle.passes or other.cores > 1, self._jobs)
        self._jobs.insert(sum(1 for _ in ahead), job)

    def jobs(self) -> list[Job]:
        """All bundles in order."""
        return list(self._jobs)

    def keys(self) -> list[Hashable]:
        """Keys of the runner kinds that bundles need, where not the default."""
        return [job.options.key for job in tuple(self._jobs) if job.options is not None]

    def remove(self, job: Job) -> None:
        """Remove a bundle at any position."""
        self._jobs.remove(job)

    def pop(self) -> Job:
        """Remove and return the first bundle."""
        return self._jobs.popleft()

    def overdue(self, now: float, limit: float) -> list[Job]:
        """Bundles with calls that have waited longer than ``limit`` seconds."""
        return [job for job in self._jobs if not job.returned and now - job.arrived > limit]

    def mark_returned(self, job: Job) -> None:
        """Mark a bundle as returned."""
        job.returned = True
        if job.cores > 1:
            self._returned.update(dict.fromkeys(call.task_id for call in job.bundle.calls))
            while len(self._returned) > MAX_RETURNED:
                self._returned.popitem(last=False)

    def returned(self, job: Job) -> bool:
        """Return whether calls of a bundle for several slots were returned before."""
        return any(call.task_id in self._returned for call in job.bundle.calls)

    def cancel(self, task_ids: set[str], now: float) -> None:
        """Mark calls as cancelled, waiting ones and later ones."""
        # the node reads recent cancellations again every few seconds
        task_ids = task_ids - self._cancelled.keys()
        self._cancelled.update(dict.fromkeys(task_ids, now + CANCELLED_SECONDS))
        while len(self._cancelled) > MAX_CANCELLED:
            self._cancelled.popitem(last=False)
        for job in self._jobs:
            job.cancelled.update(c.task_id for c in job.bundle.calls if c.task_id in task_ids)

    def forget_cancelled(self, now: float) -> None:
        """Forget cancelled calls after ``CANCELLED_SECONDS``; looks only at those that are due."""
        while self._cancelled and next(iter(self._cancelled.values())) < now:
            self._cancelled.popitem(last=False)
