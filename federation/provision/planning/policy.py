"""The limits of an elastic endpoint, and when it grows and shrinks: one frozen object per endpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from msgspec import Meta

from umbel.protocol.errors import BadRequest
from umbel.system.setting_types import Count, Number, Positive
from umbel.system.settings import InvalidSettings, Source, read

#: Seconds that cannot be shorter than one.
Seconds = Annotated[float, Meta(ge=1)]


@dataclass(frozen=True)
class Policy:
    """The rules of one elastic endpoint. Times in seconds; budgets in node-hours, 0: no limit.

    Raises ValueError for rules that contradict each other.
    """

    #: Number of blocks: submitted at first, kept while there is no work, and the limit.
    init_blocks: Count = 0
    min_blocks: Count = 0
    max_blocks: Count = 1
    #: Size of a block: nodes of one job, and calls that run at once on each node.
    nodes_per_block: Positive = 1
    slots_per_node: Positive = 1
    #: Time limit of a job.
    walltime: Annotated[float, Meta(ge=60)] = 3600.0
    #: Slots started per slot that the demand could use: 1 for all, 0.5 for half of them, 0 for one block.
    parallelism: Number = 1.0
    #: The amount of work for which a slot is started; calls shorter than this share slots.
    slot_work: Annotated[float, Meta(ge=0.001)] = 60.0
    #: Assumed run time of a call of a function that has not been measured yet.
    unknown_call: Number = 1.0
    #: A block without work for this long is drained; a pending one not needed for this long is cancelled.
    idle_time: Number = 120.0
    #: Limit of submissions in one round, and of jobs waiting in the scheduler's queue.
    submit_burst: Positive = 4
    max_pending: Positive = 10
    #: Limit of node-hours in any 24 hours, and in total.
    budget_day: Number = 0.0
    budget_total: Number = 0.0
    #: A worker accepts no more calls when its job has only this much time left.
    drain_margin: Number = 60.0
    #: A job still running this long after the request to end is cancelled, repeatedly at this interval.
    grace: Seconds = 120.0
    #: A job that runs this long without a report from a worker has failed.
    start_timeout: Seconds = 600.0
    #: This many failed blocks, or rejected submissions, in a row pause the endpoint.
    max_failed_blocks: Positive = 3
    max_failed_submits: Positive = 10
    #: A node on which this many blocks have failed is avoided for ``bad_node_time``.
    bad_node_strikes: Positive = 2
    bad_node_time: Number = 86400.0

    def __post_init__(self) -> None:
        for name in ("init_blocks", "min_blocks"):
            count = getattr(self, name)
            if count > self.max_blocks:
                raise ValueError(
                    f"setting '{name}' must be at most max_blocks ({self.max_blocks}), got {count}"
                )
        if self.drain_margin >= self.walltime:
            raise ValueError(
                f"setting 'drain_margin' must be less than walltime ({self.walltime:g} s), "
                f"got {self.drain_margin:g} s"
            )

    @property
    def slots_per_block(self) -> int:
        """Calls that run at once in one block."""
        return self.nodes_per_block * self.slots_per_node

    @property
    def block_hours(self) -> float:
        """Limit of the node-hours that a block uses."""
        return self.nodes_per_block * self.walltime / 3600.0

    def to_dict(self) -> dict[str, Any]:
        """All rules by name."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Policy:
        """Build a policy; rules that are missing have their defaults. Raises BadRequest naming the rule."""
        try:
            return read(cls, Source("policy", values, syntax="json"))
        except InvalidSettings as error:
            raise BadRequest(str(error), code="VALIDATION_ERROR") from None
