"""The decision "which calls go out now, in what bundles": a pure function.

Users take turns, one bundle each, beginning with the one whose turn it is. Among a user's own calls the
higher priority goes first, then the older. A bundle holds calls of one kind (same function and options).

How many calls a bundle holds: so many that it is worth ``bundle_seconds`` of work; an unknown kind starts
big (workers give back what turns out long); and never more than a share of what is left, so that no slot
starves while another holds all (guided self-scheduling: Polychronopoulos & Kuck, IEEE Trans. Computers
C-36(12), 1987).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from umbel.protocol.limits import BUNDLE_BODY_BYTES, MAX_CALLS_PER_BUNDLE

#: Calls in a bundle of a kind whose run time nobody knows yet.
UNKNOWN_CALLS = 256
#: Worth of work, seconds, below which a bundle is not cut smaller for the sake of sharing.
LEAST_SECONDS = 0.01
#: A bundle that is worth more than this, seconds, need not wait at the endpoint: the slot's end is time
#: enough.
LONG_SECONDS = 0.5


class Waiting(NamedTuple):
    """One queued call: its number, its priority, its kind and the size of its arguments in bytes."""

    no: int
    priority: int
    kind: Hashable
    size: int


@dataclass(frozen=True)
class Situation:
    """What the decision depends on beside the calls.

    ``slots``: calls that the endpoint runs at once. ``open``: bundles that it has and has not finished.
    ``window``: bundles per slot that may wait there. ``queued``: calls in the queue, seen or not.
    ``seconds``: measured run time of a kind. ``bundle_seconds``: worth of one bundle. ``cores``: slots that a
    call of a kind occupies, where more than one; ``largest``: slots of the largest node, so no call in the
    queues occupies more. Bundles count as many times as they occupy slots, in ``open``, too.
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
        """Bundles that may go out at most; the last one may occupy more than is left."""
        return max(0, self.slots * self.window - self.open)

    def calls(self, kind: Hashable, left: int) -> int:
        """How many calls of a kind make a bundle when ``left`` calls are in the queue."""
        seconds = self.seconds.get(kind)
        share = math.ceil(left / (2 * max(1, self.slots // self.cores.get(kind, 1))))
        if seconds is None:
            return max(1, min(UNKNOWN_CALLS, share))
        seconds = max(seconds, 1e-9)
        worth = int(min(self.bundle_seconds / seconds, MAX_CALLS_PER_BUNDLE))
        least = int(min(LEAST_SECONDS / seconds, MAX_CALLS_PER_BUNDLE))
        return max(1, min(worth, max(share, least)))

    def limit(self, kind: Hashable) -> int:
        """How many slots' worth of bundles may be open for one of this kind to go out.

        What a wide bundle occupies may exceed it: else narrow ones would overtake it for ever.
        """
        window = self.slots * self.window
        if self.seconds.get(kind, 0.0) > LONG_SECONDS:
            return min(window, self.slots + math.ceil(self.slots / 8))
        return window


class Plan(NamedTuple):
    """One bundle that shall go out: whose calls, and their numbers."""

    user: int
    kind: Hashable
    nos: list[int]


def decide(queues: Sequence[tuple[int, Sequence[Waiting]]], now: Situation) -> list[Plan]:
    """Return the bundles that go out now, in order.

    ``queues``: (user, that user's calls) in the order of turns; a call appears once. No call is planned
    twice.
    """
    lanes = [(user, _Lane(calls)) for user, calls in queues if calls]
    plans: list[Plan] = []
    left, used = now.queued, now.open
    while lanes:
        going = []
        for user, lane in lanes:
            kind = lane.next_kind()
            if used >= now.limit(kind):
                return plans
            used += now.cores.get(kind, 1)
            nos = lane.take(now.calls(kind, max(left, lane.count)))
            left -= len(nos)
            plans.append(Plan(user, kind, nos))
            if lane.count:
                going.append((user, lane))
        lanes = going
    return plans


class _Lane:
    """One user's calls, by priority and kind; each kind in order of age."""

    def __init__(self, calls: Sequence[Waiting]):
        self.count = len(calls)
        self._kinds: dict[tuple[int, Hashable], deque[Waiting]] = {}
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
        """Take up to ``count`` calls of the kind whose turn it is, and no more bytes than a bundle holds."""
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
