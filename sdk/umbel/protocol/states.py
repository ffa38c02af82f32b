"""The states of a task.

::

    waiting --> queued --> dispatched --> running --> succeeded | failed | cancelled | expired
                  ^            |             |
                  +------------+-------------+        returned, or its worker was lost

A final state never changes. ``TRANSITIONS`` is the complete definition; the ledger's statements are tested
against it.
"""

from __future__ import annotations

from enum import Enum


class TaskState(str, Enum):
    """The state of a task. It is also a string: its value is the one in the API and the ledger.

    >>> TaskState("failed") is TaskState.FAILED and TaskState.FAILED.final
    True
    """

    #: The task depends on unfinished tasks.
    WAITING = "waiting"
    #: The task waits in the service's queue.
    QUEUED = "queued"
    #: The task was sent to the endpoint and has not started there.
    DISPATCHED = "dispatched"
    #: The call runs.
    RUNNING = "running"
    #: The call returned a result. Final.
    SUCCEEDED = "succeeded"
    #: The task failed; its ``code`` says why. Final.
    FAILED = "failed"
    #: The task was cancelled. Final.
    CANCELLED = "cancelled"
    #: The task was not started within its ``expires``. Final.
    EXPIRED = "expired"

    def __str__(self) -> str:
        return self.value

    @property
    def final(self) -> bool:
        """True if a task in this state has finished and cannot change any more."""
        return self in FINAL

    def may_become(self, other: TaskState) -> bool:
        """Return whether the transition from this state to another one is allowed.

        Args:
            other: The other state.
        """
        return other in TRANSITIONS[self]


S = TaskState

#: States of finished tasks.
FINAL: frozenset[TaskState] = frozenset({S.SUCCEEDED, S.FAILED, S.CANCELLED, S.EXPIRED})

#: States of unfinished tasks.
LIVE: frozenset[TaskState] = frozenset(S) - FINAL

#: Every allowed transition, from one state to others.
TRANSITIONS: dict[TaskState, frozenset[TaskState]] = {
    # the tasks that it depends on succeeded; one of them failed; cancelled; expired
    S.WAITING: frozenset({S.QUEUED, S.FAILED, S.CANCELLED, S.EXPIRED}),
    # sent in a bundle; finished by a late report of an earlier attempt; cancelled; expired
    S.QUEUED: frozenset({S.DISPATCHED, S.SUCCEEDED, S.FAILED, S.CANCELLED, S.EXPIRED}),
    # started; finished before its start was reported; returned or lost
    S.DISPATCHED: frozenset({S.RUNNING, S.QUEUED, S.SUCCEEDED, S.FAILED, S.CANCELLED, S.EXPIRED}),
    # finished; interrupted and queued again
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
