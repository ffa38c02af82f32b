"""The order in which waiting reports are sent.

Reports are sent oldest first. Small ones pass large ones, unless both are about the same bundle: the service
expects the outcomes of a call in the order in which they were reported.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

from .spool import Entry


class Backlog:
    """Reports that wait to be sent."""

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque()
        self._postponed: dict[Entry, float] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def append(self, entry: Entry) -> None:
        """Add the newest report."""
        self._entries.append(entry)

    def put_back(self, entries: Sequence[Entry]) -> None:
        """Add reports that were sent before all others and must be sent again, oldest first."""
        self._entries.extendleft(reversed(entries))

    def remove(self, entry: Entry) -> None:
        """Remove a report."""
        self._postponed.pop(entry, None)
        if self._entries[0] is entry:
            self._entries.popleft()
        else:
            self._entries.remove(entry)

    def postpone(self, entry: Entry, seconds: float) -> None:
        """Do not return a report for a while."""
        self._postponed[entry] = time.monotonic() + seconds

    def next(self, is_large: Callable[[int], bool]) -> Entry | None:
        """Return the report to send next; None if there is none, or all are postponed."""
        large: Entry | None = None
        blocked: set[str] = set()
        for entry in self._entries:
            if self._is_postponed(entry) or (blocked and not blocked.isdisjoint(entry.bundles)):
                blocked.update(entry.bundles)
            elif not is_large(entry.size):
                return entry
            else:
                large = large or entry
                blocked.update(entry.bundles)
        return large

    def _is_postponed(self, entry: Entry) -> bool:
        until = self._postponed.get(entry)
        return until is not None and time.monotonic() < until
