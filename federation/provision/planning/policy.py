"""How far an elastic endpoint may grow, and when it grows and shrinks: one frozen object per endpoint."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from umbel.protocol.errors import BadRequest


@dataclass(frozen=True)
class Policy:
    """The rules of one elastic endpoint. Times in seconds; budgets in node-hours, 0: no limit."""

    #: Blocks submitted when the endpoint begins, kept while nothing happens, and the most there ever are.
    init_blocks: int = 0
    min_blocks: int = 0
    max_blocks: int = 1
    #: Size of a block: nodes of one job, and calls that run at once on each node.
    nodes_per_block: int = 1
    slots_per_node: int = 1
    #: Time limit of a job.
    walltime: float = 3600.0
    #: Slots started per slot that the demand could use: 1 for all, 0.5 for half of them, 0 for one block.
    parallelism: float = 1.0
    #: A slot is worth starting for so much work; calls shorter than this share slots.
    slot_work: float = 60.0
    #: Taken as the run time of a call of which nothing is known yet.
    unknown_call: float = 1.0
    #: A block without work for so long is drained, a pending one that nobody needs for so long is cancelled.
    idle_time: float = 120.0
    #: Most submissions in one round, and most jobs that wait in the scheduler's queue.
    submit_burst: int = 4
    max_pending: int = 10
    #: Node-hours that may be used in any 24 hours, and in all.
    budget_day: float = 0.0
    budget_total: float = 0.0
    #: A worker takes no more calls when so much of its job's time is left.
    drain_margin: float = 60.0
    #: A job that was told to end and has not, after so long, is cancelled; and again after as long.
    grace: float = 120.0
    #: A job that runs so long without a worker having spoken has failed.
    start_timeout: float = 600.0
    #: So many failed blocks, or refused submissions, one after another pause the endpoint.
    max_failed_blocks: int = 3
    max_failed_submits: int = 10
    #: A node where so many blocks have failed is avoided for ``bad_node_time``.
    bad_node_strikes: int = 2
    bad_node_time: float = 86400.0

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value < least:
                raise BadRequest(
                    f"policy: {name} is {value:g}; it must be at least {least:g}", code="VALIDATION_ERROR"
                )
        if self.min_blocks > self.max_blocks or self.init_blocks > self.max_blocks:
            raise BadRequest(
                f"policy: init_blocks ({self.init_blocks}) and min_blocks ({self.min_blocks}) must not be "
                f"above max_blocks ({self.max_blocks})",
                code="VALIDATION_ERROR",
            )
        if self.drain_margin >= self.walltime:
            raise BadRequest(
                f"policy: drain_margin ({self.drain_margin:g} s) leaves nothing of {self.walltime:g} s",
                code="VALIDATION_ERROR",
            )

    @property
    def slots_per_block(self) -> int:
        """Calls that run at once in one block."""
        return self.nodes_per_block * self.slots_per_node

    @property
    def block_hours(self) -> float:
        """Node-hours that a block may use at most."""
        return self.nodes_per_block * self.walltime / 3600.0

    def to_dict(self) -> dict[str, Any]:
        """All rules by name."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Policy:
        """Build a policy; what is not given has its default. Raises BadRequest naming the wrong rule."""
        defaults = {f.name: f.default for f in fields(cls)}
        made: dict[str, Any] = {}
        for name, value in values.items():
            if name not in defaults:
                near = difflib.get_close_matches(name, defaults, 1)
                hint = f"; did you mean '{near[0]}'?" if near else ""
                raise BadRequest(f"policy: unknown rule '{name[:40]}'{hint}", code="VALIDATION_ERROR")
            made[name] = _number(name, value, type(defaults[name]))
        return cls(**made)


_LEAST: dict[str, float] = {
    "init_blocks": 0,
    "min_blocks": 0,
    "max_blocks": 0,
    "nodes_per_block": 1,
    "slots_per_node": 1,
    "walltime": 60,
    "parallelism": 0,
    "slot_work": 0.001,
    "unknown_call": 0,
    "idle_time": 0,
    "submit_burst": 1,
    "max_pending": 1,
    "budget_day": 0,
    "budget_total": 0,
    "drain_margin": 0,
    "grace": 1,
    "start_timeout": 1,
    "max_failed_blocks": 1,
    "max_failed_submits": 1,
    "bad_node_strikes": 1,
    "bad_node_time": 0,
}


def _number(name: str, value: Any, kind: type) -> Any:
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not good or (kind is int and not whole):
        wanted = "a whole number" if kind is int else "a number"
        raise BadRequest(f"policy: {name} wants {wanted}, not {str(value)[:40]!r}", code="VALIDATION_ERROR")
    return kind(value)
