"""Decides which calls are sent now and in what bundles; a pure function.

Users take turns, one bundle each, starting with the user whose turn it is. Among the calls of one user,
higher priority goes first, then age. A bundle contains calls of one kind (same function and options).

A bundle contains as many calls as make ``bundle_seconds`` of work. A kind with unknown run time starts with
large bundles (workers return calls that turn out to be long). No bundle exceeds its share of the remaining
calls, so no slot runs dry while another has all the work (guided self-scheduling: Polychronopoulos & Kuck,
IEEE Trans. Computers C-36(12), 1987).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from umbel.protocol.limits import BUNDLE_BODY_BYTES, MAX_CALLS_PER_BUNDLE

#: Maximum calls in a bundle of a kind with unknown run time.
UNKNOWN_CALLS = 256
#: Seconds of work below which a bundle is not split further to share it among slots.
MIN_SECONDS = 0.01
#: Few bundles of calls with a longer run time, seconds, are sent ahead: the next one can be sent when
#: a slot becomes free.
LONG_SECONDS = 0.5


class QueuedCall(NamedTuple):
    """A queued call: its number, priority, kind, and the size of its arguments in bytes."""

    no: int
    priority: int
    kind: Hashable
    size: int


@dataclass(frozen=True)
class Situation:
    """The state of the endpoint that the decision depends on.

    ``slots``: calls that the endpoint runs at once. ``open``: its unfinished bundles. ``window``: bundles per
    slot that may be sent ahead. ``queued``: all calls in the queue, read or not. ``seconds``: measured run
    time by kind. ``bundle_seconds``: target work per bundle. ``cores``: slots per call by kind, if more than
    one. ``largest``: slots of the largest node; no call in the queues occupies more. A bundle counts once per
    slot that it occupies, also in ``open``.
    """

    slots: int
    open: int
    queued: int
    seconds: Mapping[Hashable, float]
    window: int = 3
    bundle_seconds: float = 0.1
    cores: Mapping[Hashable, int] = field(default_factory=dict)
    largest: int = 1

    @property
    def room(self) -> int:
        """Maximum number of bundles to send; the last one may occupy more than is left."""
        return max(0, self.slots * self.window - self.open)

    def calls(self, kind: Hashable, left: int) -> int:
        """Return the calls per bundle for a kind when ``left`` calls are in the queue."""
        seconds = self.seconds.get(kind)
        share = math.ceil(left / (2 * max(1, self.slots // self.cores.get(kind, 1))))
        if seconds is None:
            return max(1, min(UNKNOWN_CALLS, share))
        seconds = max(seconds, 1e-9)
        target = int(min(self.bundle_seconds / seconds, MAX_CALLS_PER_BUNDLE))
        minimum = int(min(MIN_SECONDS / seconds, MAX_CALLS_PER_BUNDLE))
        return max(1, min(target, max(share, minimum)))

    def limit(self, kind: Hashable) -> int:
        """Return the number of open bundles, counted per slot, at which no bundle of this kind is sent.

        A wide bundle may exceed the limit; otherwise narrow bundles would overtake it indefinitely.
        """
        window = self.slots * self.window
        if self.seconds.get(kind, 0.0) > LONG_SECONDS:
            return min(window, self.slots + math.ceil(self.slots / 8))
        return window


class Plan(NamedTuple):
    """A bundle to send: the user, and the kind and numbers of the calls."""

    user: int
    kind: Hashable
    nos: list[int]


def decide(queues: Sequence[tuple[int, Sequence[QueuedCall]]], situation: Situation) -> list[Plan]:
    """Return the bundles to send now, in order.

    ``queues``: (user, that user's calls) in the order of turns; each call appears once. No call is planned
    twice.
    """
    queued = [(user, _UserQueue(calls)) for user, calls in queues if calls]
    plans: list[Plan] = []
    left, used = situation.queued, situation.open
    while queued:
        remaining = []
        for user, queue in queued:
            kind = queue.next_kind()
            if used >= situation.limit(kind):
                return plans
            used += situation.cores.get(kind, 1)
            nos = queue.take(situation.calls(kind, max(left, queue.count)))
            left -= len(nos)
            plans.append(Plan(user, kind, nos))
            if queue.count:
                remaining.append((user, queue))
        queued = remaining
    return plans


class _UserQueue:
    """The calls of one user, by priority and kind; within a kind by age."""

    def __init__(self, calls: Sequence[QueuedCall]):
        self.count = len(calls)
        self._kinds: dict[tuple[int, Hashable], deque[QueuedCall]] = {}
        for call in calls:
            key = (-call.priority, call.kind)
            queue = self._kinds.get(key)
            if queue is None:
                queue = self._kinds[key] = deque()
            queue.append(call)

    def _next(self) -> tuple[int, Hashable]:
        return min(self._kinds, key=lambda key: (key[0], self._kinds[key][0].no))

    def next_kind(self) -> Hashable:
        return self._next()[1]

    def take(self, count: int) -> list[int]:
        """Remove up to ``count`` calls of the next kind that fit into a bundle; return their numbers."""
        key = self._next()
        queue = self._kinds[key]
        nos: list[int] = []
        size = 0
        while queue and len(nos) < count:
            size += queue[0].size
            if nos and size > BUNDLE_BODY_BYTES:
                break
            nos.append(queue.popleft().no)
        if not queue:
            del self._kinds[key]
        self.count -= len(nos)
        return nos
