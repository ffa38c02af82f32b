"""What holds for every policy, trace of demand and misbehaving scheduler, played in virtual time."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from federation.provision.planning.decide import affordable_blocks, needed_blocks, wanted_slots
from federation.provision.planning.model import BlockState, Verb
from federation.provision.planning.policy import Policy
from federation.provision.simulation.cluster import Arrival, SimulatedSite, Simulation

DAY = 86400.0
quick = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])

arrivals = st.builds(
    Arrival,
    time=st.floats(0, 3600),
    calls=st.integers(1, 60),
    seconds=st.sampled_from([0.001, 0.5, 5.0, 45.0, 200.0, 900.0]),
    function=st.sampled_from(["f", "g"]),
)
traces = st.lists(arrivals, min_size=1, max_size=5)
policies = st.builds(
    lambda low, more, all_at_once, **rest: Policy(
        min_blocks=low, max_blocks=low + more, init_blocks=(low + more) * all_at_once, **rest
    ),
    all_at_once=st.booleans(),
    low=st.integers(0, 1),
    more=st.integers(1, 6),
    nodes_per_block=st.integers(1, 2),
    slots_per_node=st.integers(1, 4),
    walltime=st.sampled_from([1200.0, 3600.0, 14400.0]),
    parallelism=st.sampled_from([0.0, 0.5, 1.0]),
    idle_time=st.sampled_from([30.0, 120.0, 600.0]),
    submit_burst=st.integers(1, 4),
    max_pending=st.integers(1, 6),
    budget_day=st.sampled_from([0.0, 0.0, 30.0]),
    budget_total=st.sampled_from([0.0, 0.0, 20.0]),
)
numbers = st.frozensets(st.integers(0, 12), max_size=3)
sites = st.builds(
    SimulatedSite,
    queue_wait=st.sampled_from([0.0, 20.0, 400.0]),
    start_up=st.sampled_from([1.0, 30.0]),
    max_running=st.integers(1, 10),
    interval=st.sampled_from([30.0, 60.0]),
    outages=st.lists(st.tuples(st.floats(0, 2000), st.floats(2000, 4000)), max_size=1).map(tuple),
    lost_answers=numbers,
    refused=numbers,
    failing=numbers,
)


def play(trace: list[Arrival], policy: Policy, site: SimulatedSite) -> Simulation:
    simulation = Simulation(trace, policy, site)
    simulation.run(DAY)
    return simulation


@quick
@given(traces, policies, sites)
def test_never_more_blocks_than_the_rules_allow(
    trace: list[Arrival], policy: Policy, site: SimulatedSite
) -> None:
    for _, view, decision in play(trace, policy, site).totals.decisions:
        new = sum(action.verb is Verb.SUBMIT for action in decision.actions)
        pending = sum(block.state.waiting for block in view.blocks)
        if not new:
            continue
        assert len(view.blocks) + new <= policy.max_blocks
        assert new <= policy.submit_burst
        assert pending + new <= policy.max_pending
        assert new <= affordable_blocks(view, policy)
        assert all(action.reason for action in decision.actions)


@quick
@given(traces, policies, sites)
def test_the_budget_is_never_overspent(trace: list[Arrival], policy: Policy, site: SimulatedSite) -> None:
    simulation = play(trace, policy, site)
    begun = [job for job in simulation.jobs if job.block.started is not None]
    hours = sum(
        job.block.nodes
        * ((simulation.now if job.ended is None else job.ended) - (job.block.started or 0.0))
        / 3600
        for job in begun
    )
    if policy.budget_total:
        assert hours <= policy.budget_total + 1e-6


@quick
@given(traces, policies, sites)
def test_nothing_is_submitted_in_doubt_and_nothing_done_blindly(
    trace: list[Arrival], policy: Policy, site: SimulatedSite
) -> None:
    for _, view, decision in play(trace, policy, site).totals.decisions:
        if not view.observed:
            assert decision.actions == ()
        if any(block.state is BlockState.SUBMITTING for block in view.blocks):
            assert all(action.verb is not Verb.SUBMIT for action in decision.actions)


@quick
@given(traces, policies, sites)
def test_no_flapping(trace: list[Arrival], policy: Policy, site: SimulatedSite) -> None:
    """No block is let go with work, before its idle time, or in the round in which another is asked for."""
    for now, view, decision in play(trace, policy, site).totals.decisions:
        blocks = {block.name: block for block in view.blocks}
        drained = [action for action in decision.actions if action.verb is Verb.DRAIN]
        for action in drained:
            block = blocks[action.block]
            assert block.busy == 0
            assert block.idle_since is not None and now - block.idle_since >= policy.idle_time
        if drained:
            assert all(action.verb is not Verb.SUBMIT for action in decision.actions)
            left = len(view.blocks) - len(decision.actions)
            assert left >= min(needed_blocks(wanted_slots(view.demand, policy), policy), len(view.blocks))


@quick
@given(traces, policies)
def test_steady_demand_gets_enough_and_then_nothing_changes(trace: list[Arrival], policy: Policy) -> None:
    """With endless calls on a calm site the number of blocks reaches what is needed, and stays there."""
    endless = [Arrival(0.0, 40, 40_000.0)]
    values = {"init_blocks": 0, "budget_day": 0.0, "budget_total": 0.0, "walltime": 50_000.0}
    calm = Policy.from_dict({**policy.to_dict(), **values})
    simulation = Simulation(endless, calm, SimulatedSite(queue_wait=20.0, start_up=5.0))
    simulation.run(20_000.0)
    needed = needed_blocks(40, calm)
    late = [d for d in simulation.totals.decisions if d[0] > 5_000]
    assert late
    for _, view, decision in late:
        assert len(view.blocks) == needed
        assert decision.actions == ()
    assert simulation.totals.submissions == needed


@quick
@given(traces, policies)
def test_all_work_is_done_and_blocks_go(trace: list[Arrival], policy: Policy) -> None:
    calm = Policy.from_dict({**policy.to_dict(), "budget_day": 0.0, "budget_total": 0.0})
    simulation = Simulation(trace, calm, SimulatedSite(queue_wait=20.0, start_up=5.0))
    simulation.run(20 * DAY)
    assert simulation.totals.finished == sum(arrival.calls for arrival in trace)
    assert sum(job.block.active for job in simulation.jobs) <= calm.min_blocks
