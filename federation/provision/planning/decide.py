"""Decide which blocks to submit, drain or cancel. Pure functions: no clock, no I/O.

Scaling up is immediate, limited by burst size, caps and budget. Scaling down is delayed: a block is drained
only after ``idle_time`` seconds without work, so fluctuating demand does not start and stop blocks
repeatedly.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace

from .model import Action, Block, BlockState, Decision, Demand, PlannerState, Verb, View
from .policy import Policy

#: Seconds after which a counted failure is dropped; longer than any block runs.
STRIKE_LIFETIME = 60 * 86400.0
#: Longest time for which a decision about work or blocks is valid, seconds.
LONGEST_VALID = 5.0


def decide(view: View, policy: Policy, now: float) -> Decision:
    """Return what to do now. ``now``: seconds since 1970, the service's clock."""
    if not view.observed:
        return Decision((), view.planner_state, "the scheduler has not answered: no change")
    active = [block for block in view.blocks if block.active]
    ending = _cancel_stuck(active, policy, now)
    kept = [block for block in active if block.name not in {action.block for action in ending}]
    useful = [block for block in kept if _useful(block, policy, now)]
    slots = wanted_slots(view.demand, policy)
    needed = needed_blocks(slots, policy)
    if not view.planner_state.begun:
        needed = max(needed, policy.init_blocks)
    if len(useful) < needed:
        planner_state = replace(view.planner_state, surplus_since=None)
        growth, waiting_for = _grow(view, policy, now, active, needed - len(useful))
        if len(active) + len(growth) >= policy.init_blocks:
            planner_state = replace(planner_state, begun=True)
        return Decision((*ending, *growth), planner_state, waiting_for)
    planner_state = replace(view.planner_state, begun=True)
    if len(useful) == needed:
        return Decision((*ending,), replace(planner_state, surplus_since=None))
    since = now if planner_state.surplus_since is None else planner_state.surplus_since
    shrinkage = _shrink(useful, policy, now, len(useful) - needed, since)
    return Decision((*ending, *shrinkage), replace(planner_state, surplus_since=since))


def valid_for(view: View, decision: Decision, policy: Policy) -> float:
    """Return for how many seconds a decision is valid if nothing changes; infinite: indefinitely."""
    if decision.actions:
        return 0.0
    if not (view.blocks or view.demand.calls or decision.waiting_for):
        return math.inf
    return min(LONGEST_VALID, min(policy.idle_time, policy.grace, policy.start_timeout) / 4)


def wanted_slots(demand: Demand, policy: Policy) -> int:
    """Return how many slots the unfinished calls need.

    A call of at least ``slot_work`` seconds needs a slot of its own; shorter calls share slots, ``slot_work``
    seconds of work per slot. Calls of unknown run time need at most one block, which measures their run time.
    """
    known = _slots([(w.calls, w.seconds) for w in demand.work if w.seconds is not None], policy)
    unknown = _slots([(w.calls, policy.unknown_call) for w in demand.work if w.seconds is None], policy)
    return max(known + min(unknown, policy.slots_per_block), 1) if demand.calls else 0


def _slots(work: list[tuple[int, float]], policy: Policy) -> int:
    own = sum(calls for calls, seconds in work if seconds >= policy.slot_work)
    shared = sum(calls * seconds for calls, seconds in work if seconds < policy.slot_work)
    return own + math.ceil(shared / policy.slot_work - 1e-9)


def needed_blocks(slots: int, policy: Policy) -> int:
    """Return how many blocks the policy allows for ``slots`` slots; at least one if any slot is needed."""
    wanted = math.ceil(slots * policy.parallelism / policy.slots_per_block - 1e-9)
    if slots:
        wanted = max(wanted, 1)
    return min(max(wanted, policy.min_blocks), policy.max_blocks)


def describe_demand(demand: Demand, policy: Policy) -> str:
    """Describe the demand in a few words."""
    seconds = sum(w.calls * (policy.unknown_call if w.seconds is None else w.seconds) for w in demand.work)
    worth = f"{seconds / 3600:.1f} slot-hours" if seconds >= 360 else f"{seconds:.3g} slot-seconds"
    unknown = "" if all(w.seconds is not None for w in demand.work) else " (partly estimated)"
    return f"{demand.calls} calls ≈ {worth}{unknown} waiting or running"


def _useful(block: Block, policy: Policy, now: float) -> bool:
    """Whether a block will take more calls."""
    if block.state is BlockState.DRAINING or block.drained is not None or block.cancelled is not None:
        return False
    return block.left(now) > policy.drain_margin


def _cancel_stuck(active: list[Block], policy: Policy, now: float) -> list[Action]:
    """Cancel blocks that did not end after a drain or a cancellation, and blocks without workers."""
    actions = []
    for block in active:
        if block.state is BlockState.SUBMITTING:
            continue
        reason = ""
        if block.cancelled is not None:
            if now - block.cancelled > policy.grace:
                reason = f"{block.name}: has not ended {now - block.cancelled:.0f} s after its cancellation"
        elif block.drained is not None:
            if now - block.drained > policy.grace:
                reason = f"{block.name}: has not ended {now - block.drained:.0f} s after it was drained"
        elif block.state is BlockState.RUNNING and block.started is not None:
            reason = _lacks_workers(block, policy, now)
        if reason:
            actions.append(Action(Verb.CANCEL, block.name, reason))
    return actions


def _lacks_workers(block: Block, policy: Policy, now: float) -> str:
    assert block.started is not None
    if block.joined is None and now - block.started > policy.start_timeout:
        return f"{block.name}: has run for {now - block.started:.0f} s without a heartbeat of a worker"
    if block.silent_since is not None and now - block.silent_since > policy.start_timeout:
        return f"{block.name}: no heartbeat of its workers for {now - block.silent_since:.0f} s"
    return ""


def _grow(
    view: View, policy: Policy, now: float, active: list[Block], missing: int
) -> tuple[list[Action], str]:
    """Submit as many new blocks as limits and budget allow; also return what prevents further ones."""
    planner_state = view.planner_state
    if planner_state.paused:
        return [], f"paused: {planner_state.paused}"
    if any(block.state in (BlockState.SUBMITTING, BlockState.UNKNOWN) for block in active):
        return [], "it is not known yet whether the scheduler has received the last job"
    if now < planner_state.retry_at:
        until = time.strftime("%H:%M:%S UTC", time.gmtime(planner_state.retry_at))
        return [], f"no submissions until {until} because of earlier failures"
    pending = sum(block.state.waiting for block in active)
    affordable = affordable_blocks(view, policy)
    caps = {
        f"max_blocks is {policy.max_blocks}": policy.max_blocks - len(active),
        f"max_pending is {policy.max_pending}": policy.max_pending - pending,
        f"submit_burst is {policy.submit_burst}": policy.submit_burst,
        "the node-hour budget is spent or reserved": affordable,
    }
    count = max(0, min(missing, *caps.values()))
    limit = next((name for name, cap in caps.items() if cap < missing and cap <= count), "")
    why = f"{describe_demand(view.demand, policy)}, {pending} pending{_describe_budget(view, policy)}"
    return [Action(Verb.SUBMIT, "", f"+{count} block{'s' * (count > 1)}: {why}")] * count, limit


def affordable_blocks(view: View, policy: Policy) -> int:
    """Return how many more blocks the budgets allow; each active block reserves its full walltime."""
    reserved = reserved_hours(view)
    rooms = [
        (budget - used - reserved) / policy.block_hours
        for budget, used in ((policy.budget_day, view.used_day), (policy.budget_total, view.used_total))
        if budget > 0
    ]
    return max(0, math.floor(min(rooms) + 1e-9)) if rooms else policy.max_blocks


def reserved_hours(view: View) -> float:
    """Return the most node-hours that the active blocks may use."""
    return sum(block.nodes * block.walltime for block in view.blocks if block.active) / 3600.0


def _describe_budget(view: View, policy: Policy) -> str:
    reserved = reserved_hours(view)
    words = ""
    if policy.budget_day:
        words += f", budget {view.used_day + reserved:.3g} of {policy.budget_day:.3g} node-hours today"
    if policy.budget_total:
        words += f", {view.used_total + reserved:.3g} of {policy.budget_total:.3g} in total"
    return words


def _shrink(useful: list[Block], policy: Policy, now: float, surplus: int, since: float) -> list[Action]:
    """Cancel pending blocks first, then drain the longest idle; each only after ``idle_time`` seconds."""
    actions: list[Action] = []
    if now - since >= policy.idle_time:
        pending = [b for b in useful if b.state in (BlockState.PENDING, BlockState.HELD)]
        pending.sort(key=lambda block: -block.submitted)  # the newest, which would start last
        for block in pending[:surplus]:
            reason = f"{block.name}: pending and not needed for {now - since:.0f} s"
            actions.append(Action(Verb.CANCEL, block.name, reason))
    idle = [
        (block.idle_since, block)
        for block in useful
        if block.state is BlockState.RUNNING
        and block.busy == 0
        and block.idle_since is not None
        and now - block.idle_since >= policy.idle_time
    ]
    idle.sort(key=lambda pair: (pair[0], pair[1].name))
    for idle_since, block in idle[: surplus - len(actions)]:
        reason = f"{block.name}: idle for {now - idle_since:.0f} s, longest of {len(idle)} idle blocks"
        actions.append(Action(Verb.DRAIN, block.name, reason))
    return actions


def expire_old(planner_state: PlannerState, now: float) -> PlannerState:
    """Drop nodes whose ban has expired and failures older than ``STRIKE_LIFETIME``."""
    bad = {node: until for node, until in planner_state.bad_nodes.items() if until > now}
    strikes = {n: c for n, c in planner_state.strikes.items() if n in bad or n not in planner_state.bad_nodes}
    struck = {name: when for name, when in planner_state.struck.items() if when > now - STRIKE_LIFETIME}
    return replace(planner_state, bad_nodes=bad, strikes=strikes, struck=struck)
