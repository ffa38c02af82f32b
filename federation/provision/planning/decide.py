"""The decision: from what is seen to what is done. Pure: no clock, no input or output.

Growing is asked for at once and limited by pace, caps and budget. Shrinking waits: a block goes only after it
had nothing to do for ``idle_time``, so that demand that comes and goes does not make blocks come and go.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace

from .model import Action, Block, BlockState, Decision, Demand, Memory, Verb, View
from .policy import Policy

#: No block lives so long, seconds: which failures of it were counted need not be known any more.
LONG_AGO = 60 * 86400.0


def decide(view: View, policy: Policy, now: float) -> Decision:
    """Return what to do now. ``now``: seconds since 1970, the service's clock."""
    if not view.observed:
        return Decision((), view.memory, "the scheduler has not answered: everything stays as it is")
    active = [block for block in view.blocks if block.active]
    ending = _end_stuck(active, policy, now)
    kept = [block for block in active if block.name not in {action.block for action in ending}]
    useful = [block for block in kept if _useful(block, policy, now)]
    slots = wanted_slots(view.demand, policy)
    needed = needed_blocks(slots, policy)
    if not view.memory.begun:
        needed = max(needed, policy.init_blocks)
    if len(useful) < needed:
        memory = replace(view.memory, surplus_since=None)
        growth, waiting_for = _grow(view, policy, now, active, needed - len(useful))
        if len(active) + len(growth) >= policy.init_blocks:
            memory = replace(memory, begun=True)
        return Decision((*ending, *growth), memory, waiting_for)
    memory = replace(view.memory, begun=True)
    if len(useful) == needed:
        return Decision((*ending,), replace(memory, surplus_since=None))
    since = now if memory.surplus_since is None else memory.surplus_since
    shrinkage = _shrink(useful, policy, now, len(useful) - needed, since)
    return Decision((*ending, *shrinkage), replace(memory, surplus_since=since))


def wanted_slots(demand: Demand, policy: Policy) -> int:
    """How many slots the unfinished calls are worth.

    A call as long as ``slot_work`` is worth one of its own; shorter ones share slots, ``slot_work`` in each.
    Calls of which nothing is known yet are worth one block at most: its first minute teaches their length.
    """
    known = _slots([(w.calls, w.seconds) for w in demand.work if w.seconds is not None], policy)
    unknown = _slots([(w.calls, policy.unknown_call) for w in demand.work if w.seconds is None], policy)
    return max(known + min(unknown, policy.slots_per_block), 1) if demand.calls else 0


def _slots(work: list[tuple[int, float]], policy: Policy) -> int:
    own = sum(calls for calls, seconds in work if seconds >= policy.slot_work)
    shared = sum(calls * seconds for calls, seconds in work if seconds < policy.slot_work)
    return own + math.ceil(shared / policy.slot_work - 1e-9)


def needed_blocks(slots: int, policy: Policy) -> int:
    """How many blocks the rules allow for so many slots; one at least where there is anything to do."""
    wanted = math.ceil(slots * policy.parallelism / policy.slots_per_block - 1e-9)
    if slots:
        wanted = max(wanted, 1)
    return min(max(wanted, policy.min_blocks), policy.max_blocks)


def work_in_words(demand: Demand, policy: Policy) -> str:
    """The demand in a few words."""
    seconds = sum(w.calls * (policy.unknown_call if w.seconds is None else w.seconds) for w in demand.work)
    worth = f"{seconds / 3600:.1f} slot-hours" if seconds >= 360 else f"{seconds:.3g} slot-seconds"
    unknown = "" if all(w.seconds is not None for w in demand.work) else " (partly guessed)"
    return f"{demand.calls} calls ≈ {worth}{unknown} waiting or running"


def _useful(block: Block, policy: Policy, now: float) -> bool:
    """Whether a block will go on taking calls."""
    if block.state is BlockState.DRAINING or block.drained is not None or block.cancelled is not None:
        return False
    return block.left(now) > policy.drain_margin


def _end_stuck(active: list[Block], policy: Policy, now: float) -> list[Action]:
    """Cancel what should have ended by itself, and what runs without a worker."""
    actions = []
    for block in active:
        if block.state is BlockState.SUBMITTING:
            continue
        reason = ""
        if block.cancelled is not None:
            if now - block.cancelled > policy.grace:
                reason = f"{block.name}: cancelled {now - block.cancelled:.0f} s ago and still there"
        elif block.drained is not None:
            if now - block.drained > policy.grace:
                reason = f"{block.name}: told to end {now - block.drained:.0f} s ago and still there"
        elif block.state is BlockState.RUNNING and block.started is not None:
            reason = _hollow(block, policy, now)
        if reason:
            actions.append(Action(Verb.CANCEL, block.name, reason))
    return actions


def _hollow(block: Block, policy: Policy, now: float) -> str:
    assert block.started is not None
    if block.joined is None and now - block.started > policy.start_timeout:
        return f"{block.name}: runs for {now - block.started:.0f} s and no worker of it has spoken"
    if block.silent_since is not None and now - block.silent_since > policy.start_timeout:
        return f"{block.name}: none of its workers has spoken for {now - block.silent_since:.0f} s"
    return ""


def _grow(
    view: View, policy: Policy, now: float, active: list[Block], missing: int
) -> tuple[list[Action], str]:
    """New blocks, as many as limits, pace and budget allow; and what the rest waits for."""
    memory = view.memory
    if memory.paused:
        return [], f"paused: {memory.paused}"
    if any(block.state in (BlockState.SUBMITTING, BlockState.UNKNOWN) for block in active):
        return [], "it is not known yet whether the scheduler has the last job"
    if now < memory.retry_at:
        until = time.strftime("%H:%M:%S UTC", time.gmtime(memory.retry_at))
        return [], f"after failures nothing is submitted until {until}"
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
    why = f"{work_in_words(view.demand, policy)}, {pending} pending{_budget_in_words(view, policy)}"
    return [Action(Verb.SUBMIT, "", f"+{count} block{'s' * (count > 1)}: {why}")] * count, limit


def affordable_blocks(view: View, policy: Policy) -> int:
    """How many more blocks the budgets allow, each counted with its whole walltime, running ones too."""
    reserved = reserved_hours(view)
    rooms = [
        (budget - used - reserved) / policy.block_hours
        for budget, used in ((policy.budget_day, view.used_day), (policy.budget_total, view.used_total))
        if budget > 0
    ]
    return max(0, math.floor(min(rooms) + 1e-9)) if rooms else policy.max_blocks


def reserved_hours(view: View) -> float:
    """Node-hours that the active blocks may use at most."""
    return sum(block.nodes * block.walltime for block in view.blocks if block.active) / 3600.0


def _budget_in_words(view: View, policy: Policy) -> str:
    reserved = reserved_hours(view)
    words = ""
    if policy.budget_day:
        words += f", budget {view.used_day + reserved:.3g} of {policy.budget_day:.3g} node-hours today"
    if policy.budget_total:
        words += f", {view.used_total + reserved:.3g} of {policy.budget_total:.3g} in all"
    return words


def _shrink(useful: list[Block], policy: Policy, now: float, surplus: int, since: float) -> list[Action]:
    """Pending blocks go first, then the longest idle; each only after ``idle_time``."""
    actions: list[Action] = []
    if now - since >= policy.idle_time:
        pending = [b for b in useful if b.state in (BlockState.PENDING, BlockState.HELD)]
        pending.sort(key=lambda block: -block.submitted)  # the one that would start last
        for block in pending[:surplus]:
            reason = f"{block.name}: pending, and not needed for {now - since:.0f} s"
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


def forget_old(memory: Memory, now: float) -> Memory:
    """Memory without the bad nodes whose time is over, and without what ended blocks taught long ago."""
    bad = {node: until for node, until in memory.bad_nodes.items() if until > now}
    strikes = {n: c for n, c in memory.strikes.items() if n in bad or n not in memory.bad_nodes}
    struck = {name: when for name, when in memory.struck.items() if when > now - LONG_AGO}
    return replace(memory, bad_nodes=bad, strikes=strikes, struck=struck)
