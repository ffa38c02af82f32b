"""Decides which calls are sent now and in what bundles; a pure function.

Users take turns, one bundle each, starting with the user whose turn it is. Among the calls of one user,
higher priority goes first; groups of the same priority take turns, one bundle each; in a group, age decides.
A bundle contains calls of one kind (same function and options). If its group has too few of them, the groups
whose turns are next fill it up.

A bundle contains as many calls as make ``bundle_seconds`` of work. A kind with unknown run time starts with
large bundles (workers return calls that turn out to be long). No bundle exceeds its share of the remaining
calls, so no slot runs dry while another has all the work (guided self-scheduling: Polychronopoulos & Kuck,
IEEE Trans. Computers C-36(12), 1987).

Small groups that have just arrived pass: they are sent although the window is full, and run before the
bundles that wait at the endpoint. A small group has few short calls, all of them queued. So a lone call does
not wait for a window of work of others. Every other bundle is a credit for one that passes, so at most half
of the bundles pass, and the others always progress.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from umbel.protocol.limits import BUNDLE_BODY_BYTES, MAX_CALLS_PER_BUNDLE

#: Maximum calls in a bundle of a kind with unknown run time.
UNKNOWN_CALLS = 256
#: Seconds of work below which a bundle is not split further to share it among slots.
MIN_SECONDS = 0.01
#: Few bundles of calls with a longer run time, seconds, are sent ahead: the next one can be sent when
#: a slot becomes free.
LONG_SECONDS = 0.5
#: Most credits for bundles that pass: a share of the slots, and a number.
CREDIT_SHARE, MAX_CREDIT = 0.25, 64
#: Number of groups among which those are found that fill up a bundle.
FILL_GROUPS = 1024


class QueuedCall(NamedTuple):
    """A queued call: its number, priority, kind, the size of its arguments in bytes, and its group."""

    no: int
    priority: int
    kind: Hashable
    size: int
    group: int = 0


@dataclass(frozen=True)
class Situation:
    """The state of the endpoint that the decision depends on.

    ``slots``: calls that the endpoint runs at once. ``open``: its unfinished bundles. ``credit``: number of
    bundles that may pass. ``window``: bundles per slot that may be sent ahead. ``queued``: all calls in the
    queue, read or not. ``seconds``: measured run time by kind. ``bundle_seconds``: target work per bundle.
    ``cores``: slots per call by kind, if more than one. ``largest``: slots of the largest node; no call in
    the queues occupies more. A bundle counts once per slot that it occupies, also in ``open``. ``idle``:
    groups that have just arrived and of which all unfinished calls are in the queues. ``priorities``: by
    user, the highest one of calls that are sent, as far as known.
    """

    slots: int
    open: int
    queued: int
    seconds: Mapping[Hashable, float]
    window: int = 3
    bundle_seconds: float = 0.1
    cores: Mapping[Hashable, int] = field(default_factory=dict)
    largest: int = 1
    credit: int = 0
    idle: Collection[int] = frozenset()
    priorities: Mapping[int, int] = field(default_factory=dict)

    @property
    def room(self) -> int:
        """Maximum number of bundles to send; the last one may occupy more than is left."""
        return max(0, self.slots * self.window - self.open)

    @property
    def max_credit(self) -> int:
        """Maximum number of credits for bundles that pass."""
        return min(MAX_CREDIT, math.ceil(self.slots * CREDIT_SHARE))

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

    def is_small(self, kind: Hashable, count: int) -> bool:
        """Return whether so many calls of a kind may pass. Unknown calls count as ``MIN_SECONDS`` each."""
        seconds = self.seconds.get(kind, MIN_SECONDS)
        if seconds > LONG_SECONDS or self.cores.get(kind, 1) > 1:
            return False
        return count == 1 or count * seconds <= self.bundle_seconds


class Plan(NamedTuple):
    """A bundle to send: the user, the kind and numbers of the calls, the group whose turn it is.

    ``passes``: it is sent beyond the window, to the head of the endpoint's queue.
    """

    user: int
    kind: Hashable
    nos: list[int]
    group: int = 0
    passes: bool = False


def decide(
    queues: Sequence[tuple[int, Sequence[QueuedCall]]], situation: Situation
) -> tuple[list[Plan], int]:
    """Return the bundles to send now, in order, and the credit that is left.

    ``queues``: (user, that user's calls) in the order of turns; the calls by priority, then groups in the
    order of their turns, then age. Each call appears once. No call is planned twice.
    """
    planner = _Planner(situation)
    queued = [_UserQueue(user, calls, situation) for user, calls in queues if calls]
    while queued:
        remaining: list[_UserQueue] = []
        for number, queue in enumerate(queued):
            if not planner.send(queue):
                planner.send_small([*queued[number:], *remaining])
                return planner.plans, planner.credit
            if queue.count:
                remaining.append(queue)
        queued = remaining
    return planner.plans, planner.credit


class _Planner:
    """The bundles planned so far, and what is left of the window."""

    def __init__(self, situation: Situation):
        self.plans: list[Plan] = []
        self._now = situation
        self._left, self._used = situation.queued, situation.open
        self.credit = min(situation.credit, situation.max_credit)

    def send(self, queue: _UserQueue) -> bool:
        """Plan the next bundle of a user; return False if the window has no room for it."""
        kind = queue.next_kind()
        if self._used >= self._now.limit(kind):
            return False
        self._add(queue, kind, False)
        return True

    def send_small(self, queues: Sequence[_UserQueue]) -> None:
        """Plan bundles of small groups beyond the window, while some may pass; users take turns."""
        queued = list(queues)
        while queued:
            remaining = []
            for queue in queued:
                if not self.credit:
                    return
                if queue.count and queue.advance_small():
                    self._add(queue, queue.next_kind(), True)
                    remaining.append(queue)
            queued = remaining

    def _add(self, queue: _UserQueue, kind: Hashable, passes: bool) -> None:
        count = self._now.calls(kind, max(self._left, queue.count))
        group, nos = queue.take(count, passes)
        self._left -= len(nos)
        self._used += self._now.cores.get(kind, 1)
        self.credit = self.credit - 1 if passes else min(self.credit + 1, self._now.max_credit)
        self.plans.append(Plan(queue.user, kind, nos, group, passes))


class _Group:
    """The calls of one group with the same priority, by kind; within a kind by age."""

    def __init__(self, idle: bool) -> None:
        self.kinds: dict[Hashable, deque[QueuedCall]] = {}
        self.idle = idle

    def next_kind(self) -> Hashable:
        if len(self.kinds) == 1:
            return next(iter(self.kinds))
        return min(self.kinds, key=lambda kind: self.kinds[kind][0].no)

    def is_small(self, situation: Situation) -> bool:
        if not self.idle or len(self.kinds) > 1:
            return False
        ((kind, calls),) = self.kinds.items()
        return situation.is_small(kind, len(calls)) and sum(call.size for call in calls) <= BUNDLE_BODY_BYTES


class _UserQueue:
    """The calls of one user, by priority; within a priority, groups in the order of their turns."""

    def __init__(self, user: int, calls: Sequence[QueuedCall], situation: Situation):
        self.user = user
        self.count = len(calls)
        self._now = situation
        self._levels: dict[int, dict[int, _Group]] = {}
        # priority of the user's calls at the endpoint
        self._sent = situation.priorities.get(user)
        for call in calls:
            level = self._levels.setdefault(call.priority, {})
            group = level.get(call.group)
            if group is None:
                group = level[call.group] = _Group(call.group in situation.idle)
            kind = group.kinds.get(call.kind)
            if kind is None:
                kind = group.kinds[call.kind] = deque()
            kind.append(call)

    def _level(self) -> dict[int, _Group]:
        return self._levels[max(self._levels)]

    def next_kind(self) -> Hashable:
        """Return the kind of the next bundle."""
        return next(iter(self._level().values())).next_kind()

    def advance_small(self) -> bool:
        """Make it the turn of the first group that may pass; return False if there is none."""
        level = self._level()
        if self._sent is not None and max(self._levels) < self._sent:
            return False  # they would pass more important ones
        for number, group in level.items():
            if group.is_small(self._now):
                rest = {other: level[other] for other in level if other != number}
                level.clear()
                level.update({number: group, **rest})
                return True
        return False

    def take(self, count: int, small: bool) -> tuple[int, list[int]]:
        """Remove up to ``count`` calls of the next kind that fit into a bundle; return group and numbers.

        ``small``: other groups contribute only if they are small, too.
        """
        priority = max(self._levels)
        level = self._levels[priority]
        self._sent = priority if self._sent is None else max(priority, self._sent)
        first = next(iter(level))
        kind = level[first].next_kind()
        nos: list[int] = []
        size = 0
        for number, group in list(islice(level.items(), FILL_GROUPS)):
            if group.next_kind() != kind or (small and not group.is_small(self._now)):
                continue
            calls = group.kinds[kind]
            while calls and len(nos) < count and (not nos or size + calls[0].size <= BUNDLE_BODY_BYTES):
                size += calls[0].size
                nos.append(calls.popleft().no)
            group.idle = False
            if not calls:
                del group.kinds[kind]
            if not group.kinds:
                del level[number]
            if calls or len(nos) == count:
                break
        if first in level:
            level[first] = level.pop(first)
        if not level:
            del self._levels[priority]
        self.count -= len(nos)
        return first, nos
