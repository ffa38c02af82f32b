"""Calls that wait to be submitted, and the batches that they are submitted in."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from ..api.options import Options
from ..futures import UmbelFuture
from ..protocol import names
from ..protocol.limits import MAX_CALLS_PER_SUBMISSION
from ..serialization.codec import FunctionBody

#: A batch is filled up to this many bytes (one larger call still makes one of its own).
BATCH_BYTES = 8 * 1024 * 1024
#: Maximum number of functions in a batch: new ones are registered one after the other before it is sent.
MAX_FUNCTIONS = 64
#: Number of kinds among which the functions of a batch are looked for.
LOOKAHEAD = 1_024
#: Bytes of a call in addition to its arguments.
CALL_OVERHEAD = 8


class Call(NamedTuple):
    """One call that is not submitted yet. ``queued``: since when, on the monotonic clock."""

    payload: bytes
    future: UmbelFuture
    queued: float = 0.0


@dataclass(frozen=True)
class Route:
    """Endpoint, group and options of submissions, and how large they may be; see ``Executor``."""

    endpoint: str
    group_id: str
    options: Options
    batch_size: int = MAX_CALLS_PER_SUBMISSION
    batch_interval: float = 0.0
    submit_timeout: float | None = None


class Part(NamedTuple):
    """Calls of one function in a batch."""

    function: FunctionBody
    calls: list[Call]


@dataclass
class Batch:
    """Calls that are submitted together.

    ``key``: its Idempotency-Key. ``tried``: a request with it was sent, so the service may have the calls.
    """

    options: Options
    parts: list[Part]
    key: str = field(default_factory=names.new_id)
    tried: bool = False

    @property
    def calls(self) -> list[Call]:
        """Its calls, in the order in which they are submitted."""
        return [call for part in self.parts for call in part.calls]

    @property
    def futures(self) -> list[UmbelFuture]:
        """The futures of its calls."""
        return [call.future for call in self.calls]

    def drop_abandoned(self) -> None:
        """Remove calls whose futures were cancelled."""
        kept = [Part(fn, [call for call in calls if not call.future.abandoned]) for fn, calls in self.parts]
        self.parts = [part for part in kept if part.calls]

    def split(self) -> list[Batch]:
        """Return a batch for each function, with keys of their own."""
        return [Batch(self.options, [part]) for part in self.parts]


class _Waiting(NamedTuple):
    function: FunctionBody
    options: Options
    calls: deque[Call]


class CallQueue:
    """Unsent calls by function and options, which take turns. Not thread-safe.

    ``count`` and ``size``: number of calls, and bytes of their arguments.
    """

    def __init__(self) -> None:
        self.count = 0
        self.size = 0
        self._ready: deque[Batch] = deque()
        # by the identity of function and options, which costs less than comparing them for every call
        self._waiting: dict[tuple[int, int], _Waiting] = {}

    def put(self, function: FunctionBody, options: Options, call: Call) -> None:
        """Add a call."""
        kind = id(function), id(options)
        waiting = self._waiting.get(kind)
        if waiting is None:
            waiting = self._waiting[kind] = _Waiting(function, options, deque())
        waiting.calls.append(call)
        self.count += 1
        self.size += len(call.payload)

    def put_back(self, batches: Iterable[Batch]) -> None:
        """Add batches that are taken before all other calls, as they are."""
        for batch in batches:
            self._ready.append(batch)
            self._count(batch.calls, 1)

    def take(self, most: int = MAX_CALLS_PER_SUBMISSION, functions: int = MAX_FUNCTIONS) -> Batch | None:
        """Remove and return up to ``most`` calls with the same options; None if there are none.

        The ``functions`` whose turn it is have equal shares of them.
        """
        if self._ready:
            batch = self._ready.popleft()
        elif self._waiting:
            batch = self._fill(most, functions)
        else:
            return None
        self._count(batch.calls, -1)
        return batch

    def _fill(self, most: int, functions: int) -> Batch:
        options = next(iter(self._waiting.values())).options
        seen = islice(self._waiting.items(), LOOKAHEAD)
        kinds = [kind for kind, waiting in seen if waiting.options == options][:functions]
        taken: dict[tuple[int, int], Part] = {}
        left, size = most, 0
        while kinds and left > 0:
            share = max(1, left // len(kinds))
            for kind in kinds[:left]:
                waiting = self._waiting.pop(kind)
                part = taken.setdefault(kind, Part(waiting.function, []))
                count, size, full = _move(waiting.calls, part.calls, share, size)
                left -= count
                # functions take turns
                if waiting.calls:
                    self._waiting[kind] = waiting
                if full:
                    left = 0
                    break
            kinds = [kind for kind in kinds if kind in self._waiting]
        return Batch(options, [part for part in taken.values() if part.calls])

    def _count(self, calls: list[Call], sign: int) -> None:
        self.count += sign * len(calls)
        self.size += sign * sum(len(call.payload) for call in calls)

    def take_all(self) -> list[Batch]:
        """Remove and return all calls."""
        return list(iter(self.take, None))


def _move(waiting: deque[Call], calls: list[Call], most: int, size: int) -> tuple[int, int, bool]:
    """Move up to ``most`` calls into a batch of ``size`` bytes.

    Return their number, the new size and whether the batch is full. The first call of a batch always fits.
    """
    count = 0
    while waiting and count < most:
        more = len(waiting[0].payload) + CALL_OVERHEAD
        if size and size + more > BATCH_BYTES:
            return count, size, True
        calls.append(waiting.popleft())
        size += more
        count += 1
    return count, size, False
