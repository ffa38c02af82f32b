"""Whose reports a collector reads next, and how many.

An endpoint whose list was read to its end comes first: its reports are few. One with a longer list waits for its
turn behind them, but each turn also reads the list that has waited longest, so none starves. A turn is bounded
by the time that it takes, as estimated from the bytes: whatever arrives meanwhile waits for its end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ..broker.report_lists import READ_BYTES, READ_COUNT, READ_ENDPOINTS

#: Time that one turn takes at most, seconds, and the bytes that it reads at least.
TURN_SECONDS, LEAST_BYTES = 0.05, 32 * 1024
#: Turns with fewer bytes say nothing about the time per byte.
_MEASURED_BYTES = 4096
#: Bytes per second before anything was measured.
_FIRST_RATE = 4 * 1024 * 1024.0


class ReportTurns:
    """The endpoints with unread reports."""

    def __init__(self) -> None:
        # in the order of their turns; None of them is in both
        self._short: dict[str, None] = {}
        self._long: dict[str, None] = {}
        self._rate = _FIRST_RATE

    def __len__(self) -> int:
        return len(self._short) + len(self._long)

    def __contains__(self, endpoint_id: str) -> bool:
        return endpoint_id in self._short or endpoint_id in self._long

    def add(self, endpoint_ids: Iterable[str]) -> None:
        """Add endpoints that have unread reports."""
        self._short.update((each, None) for each in endpoint_ids if each not in self._long)

    def put_back(self, endpoint_id: str) -> None:
        """Add an endpoint whose list was not read to its end."""
        self._short.pop(endpoint_id, None)
        self._long[endpoint_id] = None

    def take(self, may_read: Callable[[str], bool]) -> tuple[list[str], tuple[int, int]]:
        """Remove the endpoints whose turn it is; return them, and the number and bytes of reports of each.

        Others for which ``may_read`` is false are removed, too.
        """
        waiting = self._next(self._long, 1, may_read)
        chosen = self._next(self._short, READ_ENDPOINTS - len(waiting), may_read)
        if not chosen:
            waiting += self._next(self._long, READ_ENDPOINTS - len(waiting), may_read)
        # short lists do not use their share
        parts = max(1, len(waiting) + bool(chosen))
        size = int(max(LEAST_BYTES, min(READ_BYTES, self._rate * TURN_SECONDS)))
        return [*chosen, *waiting], (max(1, READ_COUNT // parts), size // parts)

    @staticmethod
    def _next(turns: dict[str, None], count: int, may_read: Callable[[str], bool]) -> list[str]:
        chosen: list[str] = []
        for endpoint_id in list(turns):
            if len(chosen) == count:
                break
            del turns[endpoint_id]
            if may_read(endpoint_id):
                chosen.append(endpoint_id)
        return chosen

    def record(self, size: int, seconds: float) -> None:
        """Learn from a turn: so many bytes took so long."""
        if size >= _MEASURED_BYTES:
            self._rate = (self._rate + size / max(seconds, 1e-4)) / 2
