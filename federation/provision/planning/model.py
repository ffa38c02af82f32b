"""What the decision sees and says: blocks, demand, memory, actions. Plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import Enum
from typing import Any


class BlockState(str, Enum):
    """Where a block is in its life, whatever the batch system calls it."""

    SUBMITTING = "submitting"  # the row is written; whether the scheduler has the job is not known
    PENDING = "pending"
    HELD = "held"  # the scheduler has it and will not start, or has suspended, it
    RUNNING = "running"
    # told to end, and still there
    DRAINING = "draining"
    # ends
    COMPLETED = "completed"
    FAILED = "failed"
    TIMEOUT = "timeout"
    PREEMPTED = "preempted"
    NODE_FAIL = "node_fail"
    OUT_OF_MEMORY = "out_of_memory"
    CANCELLED = "cancelled"
    LOST = "lost"  # the scheduler knows nothing of it any more
    UNKNOWN = "unknown"  # only in a scheduler's answer: a word that we do not know; the state stays as it was

    @property
    def active(self) -> bool:
        """True while the job may exist: it counts against every limit."""
        return self in _ACTIVE

    @property
    def waiting(self) -> bool:
        """True while the job has not begun."""
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
    """One block as the decision sees it. Times are seconds since 1970, None: has not happened."""

    name: str
    state: BlockState
    nodes: int
    slots: int
    walltime: float
    submitted: float
    started: float | None = None
    #: When its first worker spoke, and how many workers live now.
    joined: float | None = None
    workers: int = 0
    #: Slots that run calls now, and since when none does (None: some do, or no worker is there).
    busy: int = 0
    idle_since: float | None = None
    #: When no worker of it was heard any more (None: there are some, or none ever came).
    silent_since: float | None = None
    #: When it was told to end, and when the scheduler was last told to cancel it.
    drained: float | None = None
    cancelled: float | None = None

    @property
    def active(self) -> bool:
        """True while the job may exist."""
        return self.state.active

    def left(self, now: float) -> float:
        """Seconds until its job's time is over; all of it while it waits."""
        return self.walltime if self.started is None else self.started + self.walltime - now


@dataclass(frozen=True)
class Work:
    """Calls of one kind: how many are unfinished, and how long one takes (seconds; None: not known)."""

    calls: int
    seconds: float | None


@dataclass(frozen=True)
class Demand:
    """The unfinished calls of an endpoint, queued or at the workers, by kind."""

    work: tuple[Work, ...] = ()

    @property
    def calls(self) -> int:
        """How many calls there are."""
        return sum(work.calls for work in self.work)


@dataclass(frozen=True)
class Memory:
    """What one decision hands to the next."""

    #: Whether ``init_blocks`` have been asked for.
    begun: bool = False
    #: Since when there are more blocks than needed.
    surplus_since: float | None = None
    #: Failed blocks and refused submissions one after another; no submission before ``retry_at``.
    failed_blocks: int = 0
    failed_submits: int = 0
    retry_at: float = 0.0
    #: Why nothing is submitted until somebody resumes it; "": it is not paused.
    paused: str = ""
    #: Nodes on which blocks failed: how often, and until when they are avoided.
    strikes: Mapping[str, int] = field(default_factory=dict)
    bad_nodes: Mapping[str, float] = field(default_factory=dict)
    #: What is counted in ``strikes``, for none to count twice: ``<block>.<node>``, and when.
    struck: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON-plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Memory:
        """The memory of an earlier run; what this version does not know is left out."""
        known = {f.name for f in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})


@dataclass(frozen=True)
class View:
    """Everything that is known of an endpoint at one moment.

    ``observed``: the scheduler has answered just now; if not, nothing is done. ``used_day``, ``used_total``:
    node-hours of blocks that have ended, in the last 24 hours and ever.
    """

    blocks: tuple[Block, ...] = ()
    demand: Demand = Demand()
    memory: Memory = Memory()
    observed: bool = True
    used_day: float = 0.0
    used_total: float = 0.0


class Verb(str, Enum):
    """What to do with a block."""

    SUBMIT = "submit"
    DRAIN = "drain"  # its workers finish what they have and end
    CANCEL = "cancel"  # the scheduler ends the job


@dataclass(frozen=True)
class Action:
    """One thing to do. ``block``: the name of a block, "" for a new one; ``reason``: one sentence."""

    verb: Verb
    block: str
    reason: str


@dataclass(frozen=True)
class Decision:
    """What to do now, what to remember, and why nothing more is done ("" when all that is needed is done)."""

    actions: tuple[Action, ...]
    memory: Memory
    waiting_for: str = ""
