"""Calls that wait to be submitted, and the batches that they are submitted in."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from ..api.options import Options
from ..futures import UmbelFuture
from ..protocol import names
from ..protocol.limits import MAX_CALLS_PER_SUBMISSION
from ..serialization.codec import FunctionBody

#: A batch is filled up to this many bytes (one larger call still makes one of its own).
BATCH_BYTES = 8 * 1024 * 1024
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


@dataclass
class Batch:
    """Calls of one function that are submitted together.

    ``key``: its Idempotency-Key. ``tried``: a request with it was sent, so the service may have the calls.
    """

    function: FunctionBody
    options: Options
    calls: list[Call]
    key: str = field(default_factory=names.new_id)
    tried: bool = False

    @property
    def futures(self) -> list[UmbelFuture]:
        """The futures of its calls."""
        return [call.future for call in self.calls]


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

    def take(self, most: int = MAX_CALLS_PER_SUBMISSION) -> Batch | None:
        """Remove and return up to ``most`` calls of the function whose turn it is; None if there are none."""
        if not self._waiting:
            return None
        kind, waiting = next(iter(self._waiting.items()))
        queue = waiting.calls
        calls: list[Call] = []
        size = 0
        while queue and len(calls) < most:
            size += len(queue[0].payload) + CALL_OVERHEAD
            if calls and size > BATCH_BYTES:
                break
            calls.append(queue.popleft())
        # functions take turns
        del self._waiting[kind]
        if queue:
            self._waiting[kind] = waiting
        self.count -= len(calls)
        self.size -= sum(len(call.payload) for call in calls)
        return Batch(waiting.function, waiting.options, calls)

    def take_all(self) -> list[Batch]:
        """Remove and return all calls."""
        return list(iter(self.take, None))
