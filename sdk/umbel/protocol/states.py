"""The life of a task.

::

    waiting --> queued --> dispatched --> running --> succeeded | failed | cancelled | expired
                  ^            |             |
                  +------------+-------------+        given back, or its worker was lost

A terminal state never changes. ``TRANSITIONS`` is the whole truth; the ledger's statements are
tested against it.
"""

from __future__ import annotations

from enum import Enum


class TaskState(str, Enum):
    """Where a task is; the value is what the API shows and the ledger stores."""

    WAITING = "waiting"
    QUEUED = "queued"
    DISPATCHED = "dispatched"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    def __str__(self) -> str:
        return self.value

    @property
    def final(self) -> bool:
        """True when the task has ended and will never change again."""
        return self in FINAL

    def may_become(self, other: TaskState) -> bool:
        """Tell whether a task in this state may move to ``other``."""
        return other in TRANSITIONS[self]


S = TaskState

#: States that end a task.
FINAL: frozenset[TaskState] = frozenset({S.SUCCEEDED, S.FAILED, S.CANCELLED, S.EXPIRED})

#: States of a task that is accepted and not ended.
LIVE: frozenset[TaskState] = frozenset(S) - FINAL

#: Every move that is allowed, from state to states.
TRANSITIONS: dict[TaskState, frozenset[TaskState]] = {
    # its inputs are there; or one of them failed; or nobody wants it any more
    S.WAITING: frozenset({S.QUEUED, S.FAILED, S.CANCELLED, S.EXPIRED}),
    # sent in a bundle; ended by a late report of an earlier attempt; cancelled; too old
    S.QUEUED: frozenset({S.DISPATCHED, S.SUCCEEDED, S.FAILED, S.CANCELLED, S.EXPIRED}),
    # started; ended before anybody heard that it started; given back or lost
    S.DISPATCHED: frozenset({S.RUNNING, S.QUEUED, S.SUCCEEDED, S.FAILED, S.CANCELLED, S.EXPIRED}),
    # ended; interrupted and to be run again
    S.RUNNING: frozenset({S.QUEUED, S.SUCCEEDED, S.FAILED, S.CANCELLED}),
    S.SUCCEEDED: frozenset(),
    S.FAILED: frozenset(),
    S.CANCELLED: frozenset(),
    S.EXPIRED: frozenset(),
}


class EndpointState(str, Enum):
    """Whether an endpoint has a live worker node."""

    ONLINE = "online"
    OFFLINE = "offline"

    def __str__(self) -> str:
        return self.value
