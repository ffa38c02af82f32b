"""The decision in single situations."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from federation.provision.planning import failures
from federation.provision.planning.decide import decide, expire_old, needed_blocks, wanted_slots
from federation.provision.planning.model import Block, BlockState, Decision, Demand, PlannerState, View, Work
from federation.provision.planning.policy import Policy
from umbel.protocol.errors import BadRequest

NOW = 1_000_000.0
BEGUN = PlannerState(begun=True)
POLICY = Policy(max_blocks=8, slots_per_node=4, idle_time=100, submit_burst=3)


def demand(calls: int, seconds: float | None) -> Demand:
    return Demand((Work(calls, seconds),))


def block(name: str = "b", state: BlockState = BlockState.RUNNING, **changes: object) -> Block:
    base = Block(name, state, nodes=1, slots=4, walltime=3600.0, submitted=NOW - 500)
    if state is BlockState.RUNNING:
        base = dataclasses.replace(base, started=NOW - 400, joined=NOW - 390, workers=1, idle_since=NOW - 50)
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def verbs(decision: Decision) -> list[tuple[str, str]]:
    return [(action.verb.value, action.block) for action in decision.actions]


@pytest.mark.parametrize(
    ("calls", "seconds", "slots"),
    [
        (0, 1.0, 0),
        (1, 0.001, 1),
        (1000, 0.001, 1),  # a burst of short calls fits into one slot
        (10, 3600.0, 10),  # long ones want a slot each
        (100, 6.0, 10),
        (100_000, None, 4),  # unknown: one block at most
    ],
)
def test_slots_are_worth_their_work(calls: int, seconds: float | None, slots: int) -> None:
    assert wanted_slots(demand(calls, seconds), POLICY) == slots


def test_short_calls_start_nothing_where_one_slot_will_do_and_long_ones_do() -> None:
    view = View((block(busy=1, idle_since=None),), demand(1000, 0.001), BEGUN)
    assert verbs(decide(view, POLICY, NOW)) == []
    view = View((block(busy=4, idle_since=None),), demand(10, 3600.0), BEGUN)
    decision = decide(view, POLICY, NOW)
    assert verbs(decision) == [("submit", "")] * 2
    assert decision.actions[0].reason == "+2 blocks: 10 calls ≈ 10.0 slot-hours waiting or running, 0 pending"


def test_parallelism_scales_and_zero_means_one_block() -> None:
    assert needed_blocks(32, POLICY) == 8
    assert needed_blocks(32, Policy(max_blocks=8, slots_per_node=4, parallelism=0.5)) == 4
    assert needed_blocks(32, Policy(max_blocks=8, slots_per_node=4, parallelism=0)) == 1
    assert needed_blocks(0, Policy(max_blocks=8, min_blocks=2)) == 2


def test_caps_limit_growth_and_are_named() -> None:
    decision = decide(View((), demand(1000, 3600.0), BEGUN), POLICY, NOW)
    assert len(decision.actions) == 3 and decision.waiting_for == "submit_burst is 3"
    pending = tuple(block(f"p{i}", BlockState.PENDING) for i in range(4))
    policy = dataclasses.replace(POLICY, max_pending=5)
    decision = decide(View(pending, demand(1000, 3600.0), BEGUN), policy, NOW)
    assert len(decision.actions) == 1 and decision.waiting_for == "max_pending is 5"


def test_the_budget_reserves_whole_walltimes() -> None:
    policy = dataclasses.replace(POLICY, budget_total=10.0)
    view = View((block("a"), block("b")), demand(1000, 3600.0), BEGUN, used_total=7.0)
    decision = decide(view, policy, NOW)
    assert len(decision.actions) == 1
    assert "9 of 10" in decision.actions[0].reason
    spent = dataclasses.replace(view, used_total=8.5)
    assert decide(spent, policy, NOW).waiting_for == "the node-hour budget is spent or reserved"


def test_nothing_is_submitted_while_an_answer_is_in_doubt() -> None:
    view = View((block("a", BlockState.SUBMITTING),), demand(1000, 3600.0), BEGUN)
    decision = decide(view, POLICY, NOW)
    assert decision.actions == () and "last job" in decision.waiting_for


def test_an_unreachable_site_is_frozen() -> None:
    blocks = (block(idle_since=NOW - 9999), block("s", silent_since=NOW - 9999, workers=0))
    decision = decide(View(blocks, Demand(), BEGUN, observed=False), POLICY, NOW)
    assert decision.actions == () and decision.planner_state == BEGUN


def test_initial_blocks_come_once() -> None:
    policy = dataclasses.replace(POLICY, init_blocks=2)
    first = decide(View(), policy, NOW)
    assert verbs(first) == [("submit", "")] * 2 and first.planner_state.begun
    assert decide(View((), Demand(), first.planner_state), policy, NOW).actions == ()


def test_pending_blocks_go_first_then_the_longest_idle() -> None:
    planner_state = dataclasses.replace(BEGUN, surplus_since=NOW - 200)
    blocks = (
        block("young", idle_since=NOW - 50),
        block("old", idle_since=NOW - 300),
        block("older", idle_since=NOW - 400),
        block("busy", busy=2, idle_since=None),
        block("late", BlockState.PENDING, submitted=NOW - 10),
    )
    view = View(blocks, demand(20, 30.0), planner_state)  # three blocks wanted, two too many
    assert verbs(decide(view, POLICY, NOW)) == [("cancel", "late"), ("drain", "older")]


def test_a_surplus_must_last() -> None:
    view = View((block("p", BlockState.PENDING),), Demand(), BEGUN)
    decision = decide(view, POLICY, NOW)
    assert decision.actions == () and decision.planner_state.surplus_since == NOW
    later = dataclasses.replace(view, planner_state=decision.planner_state)
    assert verbs(decide(later, POLICY, NOW + 99)) == []
    assert verbs(decide(later, POLICY, NOW + 100)) == [("cancel", "p")]
    # what is wanted again in between starts the wait anew
    wanted = decide(dataclasses.replace(later, demand=demand(1, 1.0)), POLICY, NOW + 50)
    assert wanted.planner_state.surplus_since is None


def test_a_block_near_its_end_is_replaced() -> None:
    view = View((block(started=NOW - 3550, busy=4, idle_since=None),), demand(4, 3600.0), BEGUN)
    assert verbs(decide(view, POLICY, NOW)) == [("submit", "")]


@pytest.mark.parametrize(
    "stuck",
    [
        block(drained=NOW - 121, state=BlockState.DRAINING),
        block(cancelled=NOW - 121),
        block(joined=None, workers=0, idle_since=None, started=NOW - 601),
        block(workers=0, idle_since=None, silent_since=NOW - 601),
    ],
)
def test_what_does_not_end_is_cancelled(stuck: Block) -> None:
    assert verbs(decide(View((stuck,), Demand(), BEGUN), POLICY, NOW)) == [("cancel", "b")]


def _end(planner_state: PlannerState, state: BlockState, block_name: str = "b", **more: Any) -> PlannerState:
    """State after the end of a block; by default one of its workers has sent a heartbeat."""
    return failures.ended(planner_state, POLICY, NOW, state, **{"block": block_name, "joined": True, **more})


def test_failures_climb_a_ladder_and_pause() -> None:
    planner_state, waits = BEGUN, []
    for number in range(POLICY.max_failed_blocks):
        planner_state = _end(
            planner_state, BlockState.FAILED, f"b{number}", joined=False, message="no python"
        )
        waits.append(planner_state.retry_at - NOW)
    assert waits == [30.0, 60.0, 300.0]
    decision = decide(View((), demand(9, 60.0), planner_state), POLICY, NOW + 9999)
    assert decision.actions == ()
    assert decision.waiting_for.startswith("paused: 3 ") and decision.waiting_for.endswith("no python")
    resumed = failures.resumed(planner_state)
    assert verbs(decide(View((), demand(4, 60.0), resumed), POLICY, NOW)) == [("submit", "")]


def test_what_the_site_does_is_not_the_users_failure() -> None:
    for state in (BlockState.PREEMPTED, BlockState.NODE_FAIL, BlockState.CANCELLED):
        assert _end(BEGUN, state, joined=False).failed_blocks == 0
    assert _end(BEGUN, BlockState.FAILED, joined=True).failed_blocks == 0
    # but a job that ran long without a worker, and was cancelled for it, is one
    assert _end(BEGUN, BlockState.CANCELLED, joined=False, ran=700).failed_blocks == 1


def test_a_node_where_blocks_fail_is_avoided() -> None:
    planner_state = BEGUN
    for block_name in ("b1", "b2"):
        planner_state = _end(planner_state, BlockState.FAILED, block_name, joined=False, hosts=["cn7"])
    assert dict(planner_state.bad_nodes) == {"cn7": NOW + POLICY.bad_node_time}
    assert PlannerState.from_dict(planner_state.to_dict()) == planner_state


@pytest.mark.parametrize(
    ("hosts", "last_seen", "lost", "blamed"),
    [
        # one said nothing although others did
        (["cn1", "cn2", "cn3"], {"cn1": 9.0, "cn3": 8.0}, False, ["cn2"]),
        # machines that know their domain, and a scheduler that leaves it away; or the other way round
        (["cn1", "cn2"], {"CN1.cluster.example": 9.0}, False, ["cn2"]),
        (["cn1.cluster.example", "cn2.cluster.example"], {"cn2": 9.0}, False, ["cn1.cluster.example"]),
        # all sent heartbeats: if a node was lost, it is the one whose heartbeats stopped first
        (["cn1", "cn2"], {"cn1": 100.0, "cn2": 40.0}, False, []),
        (["cn1", "cn2"], {"cn1": 100.0, "cn2": 40.0}, True, ["cn2"]),
        (["cn1", "cn2"], {"cn1": 100.0, "cn2": 97.0}, True, []),
        # none did: all or any may be at fault
        (["cn1", "cn2"], {}, True, []),
        # the machines have other names for themselves: unknown
        (["node1", "node2"], {"x81a": 9.0}, False, []),
        (["a.north", "a.south"], {"a": 9.0}, False, []),
        (["cn1"], {}, False, []),
    ],
)
def test_which_node_of_several_failed(
    hosts: list[str], last_seen: dict[str, float], lost: bool, blamed: list[str]
) -> None:
    assert failures.failed_nodes(hosts, last_seen, lost=lost) == blamed


def test_one_bad_node_among_several_is_found_whatever_its_company() -> None:
    planner_state = BEGUN
    for block_name, company in (("b1", "cn1"), ("b2", "cn3")):
        hosts = [company, "cn2"]
        planner_state = failures.strike_nodes(planner_state, POLICY, NOW, block_name, ["cn2"])
        # when the same block ends at last, it is not counted again
        planner_state = _end(
            planner_state, BlockState.FAILED, block_name, hosts=hosts, last_seen={company: NOW}
        )
    assert dict(planner_state.strikes) == {"cn2": 2} and set(planner_state.bad_nodes) == {"cn2"}
    # without a heartbeat from any of them no failure is counted
    assert _end(BEGUN, BlockState.FAILED, joined=False, hosts=["cn1", "cn2"]).strikes == {}
    # nor is a node whose block was ended before it could speak
    ended = _end(BEGUN, BlockState.CANCELLED, hosts=["cn1", "cn2"], last_seen={"cn1": NOW})
    assert ended.strikes == {}


def test_what_blocks_taught_is_not_kept_for_ever() -> None:
    planner_state = failures.strike_nodes(BEGUN, POLICY, NOW, "b1", ["cn2"])
    assert expire_old(planner_state, NOW + 86400.0) == planner_state
    assert expire_old(planner_state, NOW + 61 * 86400.0).struck == {}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_block": 3}, "did you mean 'max_blocks'"),
        ({"max_blocks": 1.5}, "'max_blocks'.*got 1.5"),
        ({"walltime": "1h"}, "'walltime'.*got '1h'"),
        ({"walltime": 59.9}, "'walltime'.*60.*got 59.9"),
        ({"min_blocks": 2}, r"'min_blocks'.*max_blocks \(1\).*got 2"),
        ({"init_blocks": 2}, r"'init_blocks'.*max_blocks \(1\).*got 2"),
        ({"slots_per_node": 0}, "'slots_per_node'.*got 0"),
        ({"walltime": 60}, "'drain_margin'.*walltime"),
        ({"max_blocks": True}, "'max_blocks'.*got true"),
        ({"max_blocks": -1}, "'max_blocks'.*got -1"),
        ({"max_blocks": None}, "'max_blocks'.*got null"),
        ({"max_blocks": 10**400}, "'max_blocks'.*more than 64 bits"),
        ({"idle_time": 10**400}, "'idle_time'.*more than 64 bits"),
        ({"idle_time": float("nan")}, "'idle_time'.*got nan"),
        ({"budget_day": float("inf")}, "'budget_day'.*got inf"),
        ({"grace": 0.5}, "'grace'.*got 0.5"),
        ({"slot_work": 0}, "'slot_work'.*got 0"),
        ({"parallelism": []}, "'parallelism'.*got a list"),
    ],
)
def test_impossible_policies_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(BadRequest, match=message) as caught:
        Policy.from_dict(values)
    assert caught.value.code == "VALIDATION_ERROR" and caught.value.message.startswith("policy: ")


def test_a_policy_comes_back_from_json_as_it_was() -> None:
    policy = Policy.from_dict({"max_blocks": 3.0, "walltime": 7200})
    assert policy == Policy(max_blocks=3, walltime=7200.0)
    assert type(policy.max_blocks) is int and type(policy.walltime) is float
    assert Policy.from_dict(json.loads(json.dumps(policy.to_dict()))) == policy
