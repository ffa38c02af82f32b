"""What failures teach: a ladder of pauses between submissions, a stop after too many, and nodes to avoid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .model import BlockState, Memory
from .policy import Policy

#: Seconds without submissions after the first, second, … failure in a row.
LADDER = (30.0, 60.0, 300.0, 900.0, 1800.0, 3600.0)
#: Seconds until the next try when the site's own limits (jobs per user, …) refuse a job: nobody's failure.
LIMIT_PAUSE = 300.0
#: Ends that say nothing against the endpoint: the site took the job away, or we did.
_INNOCENT = {BlockState.PREEMPTED, BlockState.NODE_FAIL, BlockState.TIMEOUT, BlockState.CANCELLED}


def refused(memory: Memory, policy: Policy, now: float, message: str) -> Memory:
    """A submission was refused for a reason that may not go away."""
    count = memory.failed_submits + 1
    paused = memory.paused
    if count >= policy.max_failed_submits:
        paused = f"{count} submissions in a row were refused, last: {message[:300]}"
    return replace(memory, failed_submits=count, retry_at=now + _rung(count), paused=paused)


def limited(memory: Memory, now: float) -> Memory:
    """A submission was refused because the account has as many jobs as the site allows."""
    return replace(memory, retry_at=now + LIMIT_PAUSE)


def broken(memory: Memory, message: str) -> Memory:
    """No job can be made of the site's settings: somebody has to put them right."""
    return replace(memory, paused=message[:300])


def accepted(memory: Memory) -> Memory:
    """A submission was taken."""
    return replace(memory, failed_submits=0)


def joined(memory: Memory) -> Memory:
    """A worker of a block has spoken: the way works."""
    return replace(memory, failed_blocks=0, retry_at=0.0 if memory.failed_submits == 0 else memory.retry_at)


def ended(
    memory: Memory,
    policy: Policy,
    now: float,
    state: BlockState,
    *,
    joined: bool,
    ran: float = 0.0,
    hosts: Sequence[str] = (),
    message: str = "",
) -> Memory:
    """A block has ended after ``ran`` seconds of running.

    It failed when no worker of it ever spoke, although the site did not take it away early and we did not
    call it off.
    """
    if state is BlockState.NODE_FAIL or (
        state in (BlockState.FAILED, BlockState.OUT_OF_MEMORY) and not joined
    ):
        memory = _strike(memory, policy, now, hosts)
    if joined or (state in _INNOCENT and ran < policy.start_timeout):
        return memory
    count = memory.failed_blocks + 1
    paused = memory.paused
    if count >= policy.max_failed_blocks:
        paused = f"{count} blocks in a row ended without a worker, last: {message[:300] or state.value}"
    return replace(memory, failed_blocks=count, retry_at=now + _rung(count), paused=paused)


def resumed(memory: Memory) -> Memory:
    """Somebody has looked and says: go on."""
    return replace(memory, paused="", failed_blocks=0, failed_submits=0, retry_at=0.0)


def _rung(count: int) -> float:
    return LADDER[min(count, len(LADDER)) - 1]


def _strike(memory: Memory, policy: Policy, now: float, hosts: Sequence[str]) -> Memory:
    if len(hosts) != 1:
        return memory  # which of several nodes was at fault is not known
    host = hosts[0]
    strikes = {**memory.strikes, host: memory.strikes.get(host, 0) + 1}
    bad = dict(memory.bad_nodes)
    if strikes[host] >= policy.bad_node_strikes:
        bad[host] = now + policy.bad_node_time
    return replace(memory, strikes=strikes, bad_nodes=bad)
