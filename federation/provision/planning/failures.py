"""What failures teach: a ladder of pauses between submissions, a stop after too many, and nodes to avoid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from .model import BlockState, Memory
from .policy import Policy

#: Seconds without submissions after the first, second, … failure in a row.
LADDER = (30.0, 60.0, 300.0, 900.0, 1800.0, 3600.0)
#: Seconds until the next try when the site's own limits (jobs per user, …) refuse a job: nobody's failure.
LIMIT_PAUSE = 300.0
#: Seconds by which a node's worker is silent before those of the block's other nodes when it is the one that
#: failed; all speak every few seconds.
AHEAD = 15.0
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
    block: str,
    joined: bool,
    ran: float = 0.0,
    hosts: Sequence[str] = (),
    heard: Mapping[str, float] | None = None,
    message: str = "",
) -> Memory:
    """A block has ended after ``ran`` seconds of running.

    It failed when no worker of it ever spoke, although the site did not take it away early and we did not
    call it off. ``heard``: when the worker of each node was last heard, see ``at_fault``.
    """
    lost, failed = state is BlockState.NODE_FAIL, state in (BlockState.FAILED, BlockState.OUT_OF_MEMORY)
    if len(hosts) == 1:
        blamed = list(hosts) if lost or (failed and not joined) else []
    else:
        blamed = at_fault(hosts, heard or {}, lost=lost) if lost or failed else []
    memory = blame(memory, policy, now, block, blamed)
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


def at_fault(hosts: Sequence[str], heard: Mapping[str, float], *, lost: bool = False) -> list[str]:
    """Which of a block's several nodes failed, as far as its workers tell.

    ``hosts``: as the scheduler names them; ``heard``: when a worker was last heard, by the name that its
    machine has for itself. Those whose worker never spoke while another's did; or, when the block ended
    because it ``lost`` a node, those that were silent before the others. [] when that cannot be told.
    """
    names = {_short(host): host for host in hosts}
    spoken = {_short(host): when for host, when in heard.items()}
    if len(names) < 2 or len(names) != len(hosts) or not spoken or not names.keys() >= spoken.keys():
        return []
    silent = [host for name, host in names.items() if name not in spoken]
    if silent or not lost:
        return silent
    last = max(spoken.values())
    return [names[name] for name, when in spoken.items() if last - when > AHEAD]


def _short(host: str) -> str:
    """Schedulers leave a machine's domain away, or do not."""
    return host.partition(".")[0].lower()


def blame(memory: Memory, policy: Policy, now: float, block: str, hosts: Sequence[str]) -> Memory:
    """Count a block's failure against these nodes of it, once for each."""
    struck, strikes, bad = dict(memory.struck), dict(memory.strikes), dict(memory.bad_nodes)
    for host in hosts:
        if f"{block}.{host}" in struck:
            continue
        struck[f"{block}.{host}"] = now
        strikes[host] = strikes.get(host, 0) + 1
        if strikes[host] >= policy.bad_node_strikes:
            bad[host] = now + policy.bad_node_time
    return replace(memory, struck=struck, strikes=strikes, bad_nodes=bad)
