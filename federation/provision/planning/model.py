"""Input and output of the decision: blocks, demand, planner state, actions. Plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import Enum
from typing import Any


class BlockState(str, Enum):
    """State of a block, independent of the batch system."""

    SUBMITTING = "submitting"  # the row is written; it is not known whether the scheduler has the job
    PENDING = "pending"
    HELD = "held"  # the scheduler will not start the job, or has suspended it
    RUNNING = "running"
    # its workers are shutting down
    DRAINING = "draining"
    # final states
    COMPLETED = "completed"
    FAILED = "failed"
    TIMEOUT = "timeout"
    PREEMPTED = "preempted"
    NODE_FAIL = "node_fail"
    OUT_OF_MEMORY = "out_of_memory"
    CANCELLED = "cancelled"
    LOST = "lost"  # the scheduler does not list the job any more
    UNKNOWN = "unknown"  # only in a scheduler's answer: not understood; the stored state does not change

    @property
    def active(self) -> bool:
        """True while the job may exist; an active block counts towards every limit."""
        return self in _ACTIVE

    @property
    def waiting(self) -> bool:
        """True before the job has started."""
        return self in (BlockState.SUBMITTING, BlockState.PENDING, BlockState.HELD)


_ACTIVE = {
    BlockState.SUBMITTING,
    BlockState.PENDING,
    BlockState.HELD,
    BlockState.RUNNING,
    BlockState.DRAINING,
    BlockState.UNKNOWN,
}


@dataclass(frozen=True)
class Block:
    """One block. Times are seconds since 1970; None: has not happened."""

    name: str
    state: BlockState
    nodes: int
    slots: int
    walltime: float
    submitted: float
    started: float | None = None
    #: Time of the first heartbeat of a worker, and number of live workers.
    joined: float | None = None
    workers: int = 0
    #: Slots that run calls now, and since when none does (None: some do, or there is no worker).
    busy: int = 0
    idle_since: float | None = None
    #: Since when it has no live worker (None: it has some, or never had one).
    silent_since: float | None = None
    #: When it was drained, and when the scheduler was last asked to cancel it.
    drained: float | None = None
    cancelled: float | None = None

    @property
    def active(self) -> bool:
        """True while the job may exist."""
        return self.state.active

    def left(self, now: float) -> float:
        """Seconds until the time limit of its job; the full walltime before it has started."""
        return self.walltime if self.started is None else self.started + self.walltime - now


@dataclass(frozen=True)
class Work:
    """Calls of one function: how many are unfinished, and the run time of one (seconds; None: unknown)."""

    calls: int
    seconds: float | None


@dataclass(frozen=True)
class Demand:
    """The unfinished calls of an endpoint, queued or sent to workers, by function."""

    work: tuple[Work, ...] = ()

    @property
    def calls(self) -> int:
        """Number of unfinished calls."""
        return sum(work.calls for work in self.work)


@dataclass(frozen=True)
class PlannerState:
    """State of the planner that is stored between decisions."""

    #: Whether ``init_blocks`` have been submitted.
    begun: bool = False
    #: Since when there are more blocks than needed; None: there are not.
    surplus_since: float | None = None
    #: Consecutive failed blocks and rejected submissions; no submission before ``retry_at``.
    failed_blocks: int = 0
    failed_submits: int = 0
    retry_at: float = 0.0
    #: Why nothing is submitted until the endpoint is resumed; "": not paused.
    paused: str = ""
    #: Failures per node, and until when nodes are avoided.
    strikes: Mapping[str, int] = field(default_factory=dict)
    bad_nodes: Mapping[str, float] = field(default_factory=dict)
    #: Failures counted in ``strikes``, so that none counts twice: ``<block>.<node>`` → time.
    struck: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return it as a dictionary for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PlannerState:
        """Read a stored state; unknown keys are ignored."""
        known = {f.name for f in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})


@dataclass(frozen=True)
class View:
    """Everything that is known about an endpoint at one moment.

    ``observed``: the scheduler has answered; if not, the decision contains no action. ``used_day``,
    ``used_total``: node-hours of ended blocks, in the last 24 hours and in total.
    """

    blocks: tuple[Block, ...] = ()
    demand: Demand = Demand()
    planner_state: PlannerState = PlannerState()
    observed: bool = True
    used_day: float = 0.0
    used_total: float = 0.0


class Verb(str, Enum):
    """Kind of an action."""

    SUBMIT = "submit"
    DRAIN = "drain"  # its workers finish their calls and shut down
    CANCEL = "cancel"  # the scheduler ends the job


@dataclass(frozen=True)
class Action:
    """One action. ``block``: name of the block, "" for a new one; ``reason``: one sentence."""

    verb: Verb
    block: str
    reason: str


@dataclass(frozen=True)
class Decision:
    """Actions, the new planner state, and what prevents further submissions ("": none are needed)."""

    actions: tuple[Action, ...]
    planner_state: PlannerState
    waiting_for: str = ""
