"""A call that yields: its items go out while it runs.

In the runner ``send`` takes items from the generator, each to be written to the socket. The supervisor keeps
those that have come in a ``Stream`` and tells them at intervals, many at once. Where they come faster than
that, it stops reading, and the call waits in its ``yield``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from typing import Any

from umbel.protocol.limits import MAX_PAYLOAD_BYTES, MAX_STREAM_BYTES, MAX_STREAM_ITEMS
from umbel.protocol.records import Items

#: A runner is not read while so many bytes wait to be told; and about so many are told at once.
BACKLOG, REPORT_BYTES = 4 * 1024 * 1024, 1024 * 1024
#: Items are told at most this often (seconds), of a call that runs for long less often (a share of its run
#: time), but at least so often (seconds): each time is a report and a transaction at the service.
REPORT_INTERVAL, REPORT_SHARE, REPORT_LATEST = 0.1, 1 / 60, 1.0
#: What an item counts beside its bytes, so that many small ones are not free.
_OVERHEAD = 64


class NotTransferable(Exception):
    """A call has yielded what does not travel; with a cause: what serializing it raised."""


def send(
    generator: Generator[Any, Any, Any], dump: Callable[[Any], bytes], put: Callable[[bytes], None]
) -> Any:
    """Hand each item, serialized, to ``put``; return what the generator returns.

    Raises NotCarried; what the generator and ``put`` raise is passed on. The generator is closed in any case.
    """
    count = size = 0
    try:
        while True:
            try:
                item = next(generator)
            except StopIteration as stop:
                return stop.value
            count += 1
            try:
                data = dump(item)
            except BaseException as error:  # pickling runs code of the user's: it may raise anything
                raise NotTransferable(f"item {count} cannot be turned into bytes") from error
            size += len(data)
            if len(data) > MAX_PAYLOAD_BYTES:
                raise NotTransferable(
                    f"item {count} takes {len(data):,} bytes, the service carries {MAX_PAYLOAD_BYTES:,}: "
                    "write it to a file where the call runs and yield the file's path, or yield it in parts"
                )
            if count > MAX_STREAM_ITEMS or size > MAX_STREAM_BYTES:
                raise NotTransferable(
                    f"the call yields more than {MAX_STREAM_ITEMS:,} items or {MAX_STREAM_BYTES:,} bytes, "
                    "the most that the service carries of a call: write to files, or yield less often"
                )
            put(data)
            del item, data
    finally:
        generator.close()


class Stream:
    """The items of one call that are not told yet, and how many were."""

    def __init__(self, call: int):
        self.call = call
        self._reported_at = float("-inf")
        self._first = self._count = self._bytes = self._size = 0
        self._items: deque[bytes] = deque()

    @property
    def full(self) -> bool:
        """True when no more should be taken from the runner for now."""
        return self._size >= BACKLOG

    def add(self, item: bytes) -> None:
        """Take the next item; one beyond the limits, which no runner sends that is whole, is dropped."""
        if self._count < MAX_STREAM_ITEMS and self._bytes + len(item) <= MAX_STREAM_BYTES:
            self._items.append(item)
            self._count += 1
            self._bytes += len(item)
            self._size += len(item) + _OVERHEAD

    def next_items(self, now: float, elapsed: float) -> Items | None:
        """What is to be told now of a call that has run ``elapsed`` seconds; None if nothing is."""
        much = self._size >= REPORT_BYTES
        pause = REPORT_INTERVAL if much else max(REPORT_INTERVAL, min(elapsed * REPORT_SHARE, REPORT_LATEST))
        if not self._items or now - self._reported_at < pause:
            return None
        self._reported_at = now
        return self._take()

    def remaining(self, *, ended: bool) -> list[Items]:
        """All that is left, in pieces, the last of them with the total if the call has ``ended``."""
        pieces = [self._take()]
        while self._items:
            pieces.append(self._take())
        if ended:
            pieces[-1] = pieces[-1]._replace(total=self._first)
        return pieces

    def _take(self) -> Items:
        """About ``TELL_BYTES`` bytes of items, one at least if there is any."""
        first, size = self._first, 0
        taken: list[bytes] = []
        while self._items and (not taken or size + len(self._items[0]) <= REPORT_BYTES):
            taken.append(self._items.popleft())
            size += len(taken[-1]) + _OVERHEAD
        self._first += len(taken)
        self._size -= size
        return Items(first, taken)
