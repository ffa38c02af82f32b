"""Items of a call that yields, sent while the call runs.

In the runner, ``send`` takes items from the generator and writes each one to the socket. The supervisor
collects them in a ``Stream`` and reports them in batches at intervals. If items arrive faster than they can
be reported, it stops reading, and the call blocks in its ``yield``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from typing import Any

from umbel.protocol.limits import MAX_PAYLOAD_BYTES, MAX_STREAM_BYTES, MAX_STREAM_ITEMS
from umbel.protocol.records import Items

#: The supervisor stops reading from a runner at this backlog (bytes); size of one batch (bytes).
BACKLOG, REPORT_BYTES = 4 * 1024 * 1024, 1024 * 1024
#: Shortest interval between two batches (seconds), the interval as a share of the call's run time, and the
#: longest interval (seconds). Each batch is a report and a transaction at the service.
REPORT_INTERVAL, REPORT_SHARE, REPORT_LATEST = 0.1, 1 / 60, 1.0
#: Overhead counted per item in addition to its bytes, so that many small items are not free.
_OVERHEAD = 64


class NotTransferable(Exception):
    """A yielded item cannot be transferred; the cause, if any, is the serialization error."""


def send(
    generator: Generator[Any, Any, Any], dump: Callable[[Any], bytes], put: Callable[[bytes], None]
) -> Any:
    """Pass each serialized item to ``put``; return the generator's return value.

    Raises NotTransferable, and whatever the generator or ``put`` raises. The generator is always closed.
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
            except BaseException as error:  # pickling runs user code, which may raise anything
                raise NotTransferable(f"item {count} cannot be serialized") from error
            size += len(data)
            if len(data) > MAX_PAYLOAD_BYTES:
                raise NotTransferable(
                    f"item {count} has {len(data):,} bytes, at most {MAX_PAYLOAD_BYTES:,} after compression: "
                    "write it to a file where the call runs and yield its path, or yield it in parts"
                )
            if count > MAX_STREAM_ITEMS or size > MAX_STREAM_BYTES:
                raise NotTransferable(
                    f"the call yields more than {MAX_STREAM_ITEMS:,} items or {MAX_STREAM_BYTES:,} bytes, "
                    "the limits for one call: write to files, or yield less often"
                )
            put(data)
            del item, data
    finally:
        generator.close()


class Stream:
    """Items of one call that are not reported yet, and the number of those that are."""

    def __init__(self, call: int):
        self.call = call
        self._reported_at = float("-inf")
        self._first = self._count = self._bytes = self._size = 0
        self._items: deque[bytes] = deque()

    @property
    def full(self) -> bool:
        """True if no more items should be read from the runner for now."""
        return self._size >= BACKLOG

    def add(self, item: bytes) -> None:
        """Append an item; drop it if it exceeds the limits, which a correct runner never does."""
        if self._count < MAX_STREAM_ITEMS and self._bytes + len(item) <= MAX_STREAM_BYTES:
            self._items.append(item)
            self._count += 1
            self._bytes += len(item)
            self._size += len(item) + _OVERHEAD

    def next_items(self, now: float, elapsed: float) -> Items | None:
        """Return the items to report now for a call that has run ``elapsed`` seconds; None if none."""
        much = self._size >= REPORT_BYTES
        pause = REPORT_INTERVAL if much else max(REPORT_INTERVAL, min(elapsed * REPORT_SHARE, REPORT_LATEST))
        if not self._items or now - self._reported_at < pause:
            return None
        self._reported_at = now
        return self._take()

    def remaining(self, *, ended: bool) -> list[Items]:
        """Return all remaining items in batches; the last one has the total if the call has ``ended``."""
        pieces = [self._take()]
        while self._items:
            pieces.append(self._take())
        if ended:
            pieces[-1] = pieces[-1]._replace(total=self._first)
        return pieces

    def _take(self) -> Items:
        """Remove and return about ``REPORT_BYTES`` bytes of items, at least one if there is any."""
        first, size = self._first, 0
        taken: list[bytes] = []
        while self._items and (not taken or size + len(self._items[0]) <= REPORT_BYTES):
            taken.append(self._items.popleft())
            size += len(taken[-1]) + _OVERHEAD
        self._first += len(taken)
        self._size -= size
        return Items(first, taken)
