"""Reaction to failures: growing pauses between submissions, a stop after too many, and nodes to avoid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from .model import BlockState, PlannerState
from .policy import Policy

#: Seconds without submissions after the first, second, … consecutive failure.
BACKOFF_STEPS = (30.0, 60.0, 300.0, 900.0, 1800.0, 3600.0)
#: Seconds until the next attempt after the site's limits (jobs per user, …) rejected a job; not a failure.
LIMIT_PAUSE = 300.0
#: A lost node is identified by a last heartbeat this many seconds before those of the block's other nodes;
#: every worker sends one every few seconds.
SILENCE_MARGIN = 15.0
#: Final states that are not failures of the endpoint: the site or the provisioner ended the job.
_NOT_FAILURES = {BlockState.PREEMPTED, BlockState.NODE_FAIL, BlockState.TIMEOUT, BlockState.CANCELLED}


def refused(planner_state: PlannerState, policy: Policy, now: float, message: str) -> PlannerState:
    """A submission was rejected for a reason that may be permanent."""
    count = planner_state.failed_submits + 1
    paused = planner_state.paused
    if count >= policy.max_failed_submits:
        paused = f"{count} consecutive submissions were rejected, the last with: {message[:300]}"
    return replace(planner_state, failed_submits=count, retry_at=now + _backoff(count), paused=paused)


def limit_reached(planner_state: PlannerState, now: float) -> PlannerState:
    """A submission was rejected because the account has as many jobs as the site allows."""
    return replace(planner_state, retry_at=now + LIMIT_PAUSE)


def invalid_settings(planner_state: PlannerState, message: str) -> PlannerState:
    """The site's settings do not make a valid job: pause until they are corrected."""
    return replace(planner_state, paused=message[:300])


def accepted(planner_state: PlannerState) -> PlannerState:
    """A submission was accepted."""
    return replace(planner_state, failed_submits=0)


def joined(planner_state: PlannerState) -> PlannerState:
    """The first worker of a block has sent a heartbeat: the site works."""
    return replace(
        planner_state,
        failed_blocks=0,
        retry_at=0.0 if planner_state.failed_submits == 0 else planner_state.retry_at,
    )


def ended(
    planner_state: PlannerState,
    policy: Policy,
    now: float,
    state: BlockState,
    *,
    block: str,
    joined: bool,
    ran: float = 0.0,
    hosts: Sequence[str] = (),
    last_seen: Mapping[str, float] | None = None,
    message: str = "",
) -> PlannerState:
    """A block has ended after running for ``ran`` seconds.

    It counts as failed if none of its workers ever sent a heartbeat, unless the site or the provisioner ended
    it early. ``last_seen``: last heartbeat of each node's worker, see ``failed_nodes``.
    """
    lost, failed = state is BlockState.NODE_FAIL, state in (BlockState.FAILED, BlockState.OUT_OF_MEMORY)
    if len(hosts) == 1:
        at_fault = list(hosts) if lost or (failed and not joined) else []
    else:
        at_fault = failed_nodes(hosts, last_seen or {}, lost=lost) if lost or failed else []
    planner_state = strike_nodes(planner_state, policy, now, block, at_fault)
    if joined or (state in _NOT_FAILURES and ran < policy.start_timeout):
        return planner_state
    count = planner_state.failed_blocks + 1
    paused = planner_state.paused
    if count >= policy.max_failed_blocks:
        why = message[:300] or state.value
        paused = f"{count} consecutive blocks ended without a worker, the last with: {why}"
    return replace(planner_state, failed_blocks=count, retry_at=now + _backoff(count), paused=paused)


def resumed(planner_state: PlannerState) -> PlannerState:
    """The owner has resumed submissions."""
    return replace(planner_state, paused="", failed_blocks=0, failed_submits=0, retry_at=0.0)


def _backoff(count: int) -> float:
    return BACKOFF_STEPS[min(count, len(BACKOFF_STEPS)) - 1]


def failed_nodes(hosts: Sequence[str], last_seen: Mapping[str, float], *, lost: bool = False) -> list[str]:
    """Return which nodes of a multi-node block failed, judged by heartbeats; [] if that is unknown.

    ``hosts``: names used by the scheduler; ``last_seen``: time of the last heartbeat, by the machine's own
    name. A node has failed if its worker sent no heartbeat while another node's did. If the block ended
    because it ``lost`` a node, a node has also failed if its heartbeats stopped before those of the others.
    """
    names = {_short(host): host for host in hosts}
    seen = {_short(host): when for host, when in last_seen.items()}
    if len(names) < 2 or len(names) != len(hosts) or not seen or not names.keys() >= seen.keys():
        return []
    silent = [host for name, host in names.items() if name not in seen]
    if silent or not lost:
        return silent
    last = max(seen.values())
    return [names[name] for name, when in seen.items() if last - when > SILENCE_MARGIN]


def _short(host: str) -> str:
    """The host name without its domain: some schedulers omit the domain."""
    return host.partition(".")[0].lower()


def strike_nodes(
    planner_state: PlannerState, policy: Policy, now: float, block: str, hosts: Sequence[str]
) -> PlannerState:
    """Count a block's failure for these nodes of it, once per node."""
    struck, strikes, bad = (
        dict(planner_state.struck),
        dict(planner_state.strikes),
        dict(planner_state.bad_nodes),
    )
    for host in hosts:
        if f"{block}.{host}" in struck:
            continue
        struck[f"{block}.{host}"] = now
        strikes[host] = strikes.get(host, 0) + 1
        if strikes[host] >= policy.bad_node_strikes:
            bad[host] = now + policy.bad_node_time
    return replace(planner_state, struck=struck, strikes=strikes, bad_nodes=bad)
