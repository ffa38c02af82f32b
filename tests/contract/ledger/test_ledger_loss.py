"""Everything that can be lost: nodes, bundles, reports, the broker."""

from __future__ import annotations

from typing import Any

import pytest

from federation.db.errors import DatabaseUnavailable
from federation.services import liveness, sweeper
from federation.services.collector import Collector
from tests.support.endpoint import FakeEndpoint, outcome
from tests.support.ledger import Ledger
from umbel.protocol import names
from umbel.protocol.messages import Status


def _hold(ledger: Ledger, lab: FakeEndpoint, **options: Any) -> Any:
    """A node whose heartbeat lists the only bundle."""
    node = lab.node()
    ledger.collect()
    answer = ledger.submit(lab, 1, **options)
    node.take()
    node.beat()
    ledger.collect()
    return node, answer


def _take_and_die(ledger: Ledger, lab: FakeEndpoint, name: str) -> None:
    """A node joins, receives what is sent, and never reports again."""
    node = lab.node(name)
    ledger.collect()
    ledger.sweep(after=1)
    node.take()
    assert node.held, "nothing was sent"
    node.beat()
    ledger.collect()
    ledger.sweep(after=61)


def _miss(ledger: Ledger, *present: Any) -> None:
    """Sweep until a bundle counts as lost: every node has sent a heartbeat since it was first missing."""
    ledger.sweep()
    ledger.clock.forward(5)
    for node in present:
        node.beat()
    ledger.collect()
    ledger.sweep()


def _attempt(ledger: Ledger, answer: dict[str, Any]) -> int:
    return int(ledger.task(answer["task_ids"][0])["attempt"])


# Nodes


def test_the_calls_of_a_silent_node_go_to_another(ledger: Ledger, lab: FakeEndpoint) -> None:
    _, answer = _hold(ledger, lab)
    other = lab.node("n2")
    ledger.collect()
    for _ in range(13):
        ledger.sweep(after=5)
        other.beat()
        ledger.collect()
    (bundle,) = other.take()
    assert bundle.calls[0].attempt == 2
    other.finish()
    ledger.collect()
    assert ledger.state(answer) == "succeeded"
    assert ledger.task(answer["task_ids"][0])["node"] == "n2"


def test_a_node_that_speaks_in_time_keeps_its_calls(ledger: Ledger, lab: FakeEndpoint) -> None:
    node, answer = _hold(ledger, lab)
    for _ in range(10):
        ledger.sweep(after=50)
        assert ledger.state(answer) == "dispatched" and _attempt(ledger, answer) == 1
        node.beat()
        ledger.collect()


def test_each_node_is_marked_lost_by_itself(
    ledger: Ledger, lab: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nodes of two endpoints are silent, more than one batch of them; another one reports."""
    monkeypatch.setattr(liveness, "BATCH", 2)
    other = ledger.endpoint("other")
    nodes = [lab.node("n0"), lab.node("n1"), lab.node("n2"), other.node("n0"), other.node("n1")]
    ledger.collect()
    answers = []
    for node in nodes:
        answers.append(ledger.submit(node.endpoint, 1))
        assert len(node.take()) == 1
        node.beat()
        ledger.collect()
    lost = [2, 1, 2, 2, 2]
    for _ in range(12):  # a slow machine interrupts the collector, which then listens anew
        nodes[1].beat()
        ledger.collect()
        ledger.sweep(after=25)
        if [_attempt(ledger, answer) for answer in answers] == lost:
            break
    assert [_attempt(ledger, answer) for answer in answers] == lost
    with ledger.fed.database.read() as connection:
        live = connection.exec_driver_sql("SELECT endpoint_no, name FROM nodes WHERE live = 1").all()
    assert live == [(lab.no, "n1")]


def test_nodes_die_max_attempts_times_under_a_call(ledger: Ledger, lab: FakeEndpoint) -> None:
    answer = ledger.submit(lab, 1, max_attempts=2)
    for number in range(2):
        _take_and_die(ledger, lab, f"n{number}")
    task = ledger.task(answer["task_ids"][0])
    assert (task["state"], task["code"], task["attempt"]) == ("failed", "WORKER_LOST", 2)
    assert ledger.results(answer["group_id"])["results"][0]["code"] == "WORKER_LOST"
    assert answer["group_id"] in ledger.broker.woken


def test_the_death_of_a_batch_jobs_node_is_not_the_calls_failure(ledger: Ledger, lab: FakeEndpoint) -> None:
    """Sites stop nodes: by preemption, by a fault, at the end of the walltime."""
    answer = ledger.submit(lab, 1, max_attempts=2)
    for number in range(5):
        _take_and_die(ledger, lab, f"umbel-0123abcd-0000000{number}.cn1")
        assert ledger.task(answer["task_ids"][0])["state"] in ("queued", "dispatched")


def test_a_heartbeat_that_arrives_while_its_node_is_marked_lost_counts(
    ledger: Ledger, lab: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the sweeper's look at the nodes and its transaction, the collector applies a heartbeat."""
    node, answer = _hold(ledger, lab)
    mark = liveness.Liveness._mark_lost
    marked: list[str] = []

    def beat_first(self: liveness.Liveness, found: Any, *more: Any) -> None:
        marked.append(found.name)
        node.beat()
        ledger.collect()
        mark(self, found, *more)

    monkeypatch.setattr(liveness.Liveness, "_mark_lost", beat_first)
    ledger.sweep(after=61)
    assert marked == [node.name], "the sweeper did not consider it lost"
    assert ledger.state(answer) == "dispatched" and _attempt(ledger, answer) == 1
    node.finish()
    ledger.collect()
    assert ledger.state(answer) == "succeeded"


def test_silence_says_nothing_while_nobody_listens(ledger: Ledger, lab: FakeEndpoint) -> None:
    """The collector was down for an hour: nodes get time to report before any is considered lost."""
    node, answer = _hold(ledger, lab)
    ledger.clock.forward(3600)
    ledger.collector = Collector(ledger.fed, "c1")
    ledger.sweep()
    assert ledger.state(answer) == "dispatched" and _attempt(ledger, answer) == 1
    node.beat()
    ledger.collect()
    ledger.sweep(after=30)
    assert ledger.state(answer) == "dispatched" and _attempt(ledger, answer) == 1


def test_unread_reports_protect_silent_nodes(
    ledger: Ledger, lab: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The collector is late: the heartbeats of more than one batch of nodes are in the broker."""
    monkeypatch.setattr(liveness, "BATCH", 2)
    node, answer = _hold(ledger, lab)
    others = [lab.node("n2"), lab.node("n3")]
    ledger.collect()
    ledger.listen(61)
    for each in (node, *others):
        each.beat()
    ledger.sweep()
    assert ledger.state(answer) == "dispatched" and _attempt(ledger, answer) == 1
    ledger.collect()
    ledger.sweep()
    assert ledger.state(answer) == "dispatched" and _attempt(ledger, answer) == 1


def test_silence_says_nothing_while_the_broker_is_new(ledger: Ledger, lab: FakeEndpoint) -> None:
    """Heartbeats may have been lost with the broker's data."""
    node, answer = _hold(ledger, lab)
    ledger.listen(61)
    ledger.broker.wipe()
    ledger.listen()
    ledger.sweeper.liveness.mark_lost_nodes()
    ledger.sweep()
    ledger.sweep(after=50)
    assert _attempt(ledger, answer) == 1
    for _ in range(5):
        ledger.sweep(after=65)
    assert _attempt(ledger, answer) == 2


def test_a_new_instance_is_the_old_ones_death(ledger: Ledger, lab: FakeEndpoint) -> None:
    node, answer = _hold(ledger, lab)
    node.restart()
    ledger.collect()
    (bundle,) = node.take()
    assert bundle.calls[0].attempt == 2
    node.finish()
    ledger.collect()
    assert ledger.state(answer) == "succeeded"


def test_results_of_the_old_instance_still_count(ledger: Ledger, lab: FakeEndpoint) -> None:
    """The reports were on its disk and are sent after the restart."""
    node, answer = _hold(ledger, lab)
    (bundle,) = node.held.values()
    old = node.instance
    node.restart()
    node.instance, new = old, node.instance
    node.finish([bundle])
    node.instance = new
    ledger.collect()
    assert ledger.state(answer) == "succeeded"


def test_a_goodbye_gives_everything_back(ledger: Ledger, lab: FakeEndpoint) -> None:
    node, answer = _hold(ledger, lab)
    node.goodbye()
    ledger.collect()
    other = lab.node("n2")
    ledger.collect()
    assert len(other.take()) == 1
    other.finish()
    ledger.collect()
    assert ledger.state(answer) == "succeeded"


def test_a_late_goodbye_of_the_old_instance_is_not_the_new_ones(ledger: Ledger, lab: FakeEndpoint) -> None:
    node, _ = _hold(ledger, lab)
    old = node.instance
    node.restart()
    ledger.collect()
    node.take()
    node.beat()
    node.instance, new = old, node.instance
    node.goodbye()
    node.instance = new
    ledger.collect()
    assert not node.take()


# Bundles


def test_a_bundle_that_nobody_took_is_sent_again_for_nothing(ledger: Ledger, lab: FakeEndpoint) -> None:
    node = lab.node()
    ledger.collect()
    ledger.clock.forward(60)
    node.beat()
    ledger.collect()
    ledger.broker.deaf = True
    answer = ledger.submit(lab, 3, max_attempts=1)
    ledger.broker.deaf = False
    node.beat()
    ledger.collect()
    ledger.sweep(after=9)
    assert not node.take(), "it may still be on its way"
    node.beat()
    ledger.collect()
    ledger.sweep(after=5)
    assert not node.take(), "somebody may have taken it and not said so yet"
    _miss(ledger, node)
    node.take()
    assert node.finish() == 3
    ledger.collect()
    assert ledger.state(answer) == "succeeded" and _attempt(ledger, answer) == 1


def test_a_bundle_in_the_queue_is_not_sent_again(ledger: Ledger, lab: FakeEndpoint) -> None:
    answer = ledger.submit(lab, 3)
    sent = ledger.broker.sends
    for _ in range(5):
        ledger.sweep(after=3600)
    assert ledger.broker.sends == sent
    assert ledger.state(answer) == "dispatched"


def test_bundles_that_wait_for_a_live_node_are_not_sent_again(ledger: Ledger, lab: FakeEndpoint) -> None:
    """More bundles than one question to the broker returns, with a node that reports and takes none."""
    node = lab.node(slots=40)
    ledger.collect()
    answer = ledger.submit(lab, 500)
    sent = ledger.broker.sends
    assert len(ledger.broker.queues[lab.id]) == sent > 100
    for _ in range(8):
        ledger.sweep(after=5)
        node.beat()
        ledger.collect()
    assert ledger.broker.sends == sent and _attempt(ledger, answer) == 1


def test_a_bundle_taken_after_a_long_wait_is_not_sent_again(ledger: Ledger, lab: FakeEndpoint) -> None:
    """After a node received a bundle and before its next heartbeat, no queue and no node lists it."""
    answer = ledger.submit(lab, 3)
    ledger.clock.forward(3600)
    node = lab.node()
    ledger.collect()
    ledger.sweep()
    node.take()
    sent = ledger.broker.sends
    ledger.sweep(after=1)
    ledger.sweep(after=2)
    node.beat()
    ledger.collect()
    for _ in range(5):
        ledger.sweep(after=2)
        node.beat()
        ledger.collect()
    assert ledger.broker.sends == sent and _attempt(ledger, answer) == 1


def test_a_heartbeat_from_before_a_bundle_was_taken_says_nothing_about_it(
    ledger: Ledger, lab: FakeEndpoint
) -> None:
    """It was sent before the node took the bundle, and is applied after the bundle is first missing."""
    node = lab.node()
    ledger.collect()
    answer = ledger.submit(lab, 3, max_attempts=1)
    for _ in range(15):
        ledger.clock.forward(1)
        node.beat()
        ledger.collect()
    node.take()
    sent = ledger.broker.sends
    ledger.sweep()
    ledger.clock.forward(1)
    node.beat(held=[])
    ledger.collect()
    ledger.sweep()
    assert ledger.broker.sends == sent and ledger.state(answer) == "dispatched"
    node.finish()
    ledger.collect()
    assert ledger.state(answer) == "succeeded" and _attempt(ledger, answer) == 1


def test_a_bundle_that_a_live_node_holds_is_not_sent_again(ledger: Ledger, lab: FakeEndpoint) -> None:
    node, answer = _hold(ledger, lab)
    for _ in range(20):
        node.beat()
        ledger.collect()
        ledger.sweep(after=10)
    assert ledger.broker.sends == 1 and _attempt(ledger, answer) == 1


def test_a_bundle_that_its_node_holds_no_more_is_sent_again_and_counted(
    ledger: Ledger, lab: FakeEndpoint
) -> None:
    """Its report was lost, so its calls may have run."""
    node, answer = _hold(ledger, lab)
    node.held.clear()
    for _ in range(5):
        ledger.clock.forward(5)
        node.beat()
        ledger.collect()
    _miss(ledger, node)
    assert len(node.take()) == 1 and _attempt(ledger, answer) == 2


def test_a_bundle_that_a_dying_node_took_in_silence_is_counted(ledger: Ledger, lab: FakeEndpoint) -> None:
    """The node died after receiving the bundle and before its next heartbeat."""
    node = lab.node()
    ledger.collect()
    answer = ledger.submit(lab, 1)
    node.take()
    node.restart()
    ledger.collect()
    for _ in range(5):
        ledger.clock.forward(5)
        node.beat()
        ledger.collect()
    _miss(ledger, node)
    assert len(node.take()) == 1 and _attempt(ledger, answer) == 2


def test_nodes_that_cannot_have_a_lost_bundle_do_not_delay_it(ledger: Ledger, lab: FakeEndpoint) -> None:
    """A node shut down and reports no more; the node of another endpoint has sent nothing for a while."""
    lab.node("old").goodbye()
    ledger.collect()
    ledger.listen(60)
    ledger.endpoint("other").node()
    node = lab.node()
    ledger.collect()
    ledger.broker.deaf = True
    answer = ledger.submit(lab, 1)
    ledger.broker.deaf = False
    ledger.listen(11)
    node.beat()
    ledger.collect()
    _miss(ledger, node)
    assert len(node.take()) == 1
    node.finish()
    ledger.collect()
    assert ledger.state(answer) == "succeeded"


def test_bundles_that_wait_do_not_hide_a_lost_one(
    ledger: Ledger, lab: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bundles in the queues of busy endpoints are checked in every sweep, in more than one batch."""
    monkeypatch.setattr(sweeper, "BATCH", 4)
    busy = [ledger.endpoint(f"busy{number}").node() for number in range(4)]
    for node in busy:
        ledger.submit(node.endpoint, 100)
    ledger.broker.deaf = True
    answer = ledger.submit(lab, 10)
    ledger.broker.deaf = False
    ledger.listen(30)
    node = lab.node()
    for other in busy:
        other.beat()
    ledger.collect()
    _miss(ledger, node, *busy)
    while node.take():
        node.finish()
        ledger.collect()
    assert ledger.state(answer) == "succeeded"


def test_sweeping_asks_nothing_about_endpoints_that_are_away(
    ledger: Ledger, lab: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.submit(lab, 100)
    ledger.listen(3600)
    asked: list[str] = []
    queued = ledger.broker.queued

    def ask(endpoint_id: str) -> set[str]:
        asked.append(endpoint_id)
        return queued(endpoint_id)

    monkeypatch.setattr(ledger.broker, "queued", ask)
    ledger.sweep()
    assert asked == []
    lab.node()
    ledger.collect()
    ledger.sweep()
    assert asked == [lab.id]


# The broker


def test_a_broker_that_lost_everything_gets_it_again(ledger: Ledger, lab: FakeEndpoint) -> None:
    node = lab.node(slots=1)
    ledger.collect()
    ledger.clock.forward(60)
    node.beat()
    ledger.collect()
    answer = ledger.submit(lab, 2000)
    (held,) = node.take(1)
    node.beat()
    ledger.collect()
    ledger.broker.wipe()
    ledger.sweep(after=0.1)
    assert ledger.broker.redis.exists(names.EPOCH_KEY)
    for _ in range(3):
        ledger.clock.forward(5)
        node.beat()
        ledger.collect()
        _miss(ledger, node)
    node.finish([held])
    done = len(held.calls)
    ledger.collect()
    while node.take():
        # bundles in the broker may have run and reported before: one more attempt, no lost call
        assert all(call.attempt <= 2 for bundle in node.held.values() for call in bundle.calls)
        done += node.finish()
        ledger.collect()
    assert done == 2000 and ledger.state(answer) == "succeeded"


def test_wipes_cost_an_endpoint_that_is_away_no_attempt(ledger: Ledger, lab: FakeEndpoint) -> None:
    answer = ledger.submit(lab, 3, max_attempts=1)
    for _ in range(5):
        ledger.broker.wipe()
        ledger.sweep(after=60)
    node = lab.node()
    ledger.collect()
    _miss(ledger, node)
    assert _attempt(ledger, answer) == 1
    node.take()
    assert node.finish() == 3
    ledger.collect()
    assert ledger.state(answer) == "succeeded"


def test_a_wipe_does_not_start_again_what_an_unknown_node_has_just_received(
    ledger: Ledger, lab: FakeEndpoint
) -> None:
    """The node's first heartbeat is lost with the broker's data, and it has the only bundle."""
    answer = ledger.submit(lab, 1, max_attempts=1)
    ledger.listen(60)
    node = lab.node()
    assert len(node.take()) == 1
    ledger.broker.wipe()
    ledger.sweep()
    for _ in range(6):
        assert not ledger.broker.queued(lab.id), "the bundle was sent again"
        node.beat()
        ledger.collect()
        ledger.sweep(after=5)
    assert ledger.state(answer) == "dispatched" and _attempt(ledger, answer) == 1
    node.finish()
    ledger.collect()
    assert ledger.state(answer) == "succeeded"


def test_a_wipe_costs_no_attempt_after_an_earlier_node_shut_down(ledger: Ledger, lab: FakeEndpoint) -> None:
    """The later node starts after the wipe, and the earlier one shut down before the bundle was sent."""
    lab.node("old").goodbye()
    ledger.collect()
    ledger.listen(120)
    answer = ledger.submit(lab, 1, max_attempts=1)
    ledger.listen(60)
    ledger.broker.wipe()
    ledger.sweep()
    node = lab.node("new")
    for _ in range(6):
        node.beat()
        ledger.collect()
        ledger.sweep(after=5)
    assert ledger.state(answer) == "dispatched" and _attempt(ledger, answer) == 1
    node.take()
    assert node.finish() == 1
    ledger.collect()
    assert ledger.state(answer) == "succeeded"


def test_a_wipe_is_repaired_while_an_endpoint_is_away(ledger: Ledger, lab: FakeEndpoint) -> None:
    """Bundles of an endpoint without a live node are sent again although no node says that it lacks them."""
    answer = ledger.submit(lab, 3, max_attempts=1)
    ledger.listen(60)
    ledger.broker.wipe()
    for _ in range(8):
        ledger.collect()
        ledger.sweep(after=5)
    assert ledger.broker.queued(lab.id)
    node = lab.node()
    node.take()
    assert node.finish() == 3
    ledger.collect()
    assert ledger.state(answer) == "succeeded"


def test_a_wipe_may_swallow_a_report_so_it_costs_an_attempt(ledger: Ledger, lab: FakeEndpoint) -> None:
    node = lab.node()
    ledger.collect()
    ledger.clock.forward(60)
    node.beat()
    ledger.collect()
    answer = ledger.submit(lab, 1)
    node.take()
    node.finish()
    ledger.broker.wipe()
    for _ in range(4):
        ledger.clock.forward(5)
        node.beat()
        ledger.collect()
        ledger.sweep()
    assert len(node.take()) == 1 and _attempt(ledger, answer) == 2


def test_a_broker_is_restored_once(ledger: Ledger, lab: FakeEndpoint) -> None:
    ledger.submit(lab, 10)
    ledger.broker.wipe()
    ledger.clock.forward(1)
    assert ledger.sweeper.restore_broker() and not ledger.sweeper.restore_broker()
    sent = ledger.broker.sends
    ledger.sweep()
    assert ledger.broker.sends == sent


def test_a_broker_that_is_down_stops_no_sweep(ledger: Ledger, lab: FakeEndpoint) -> None:
    answer = ledger.submit(lab, 1, expires=5)
    ledger.broker.down = True
    ledger.clock.forward(6)
    ledger.sweeper.sweep()
    assert ledger.state(answer) == "expired"


# Reports


def test_reports_that_a_dead_collector_took_are_taken_in_by_another(
    ledger: Ledger, lab: FakeEndpoint
) -> None:
    node, answer = _hold(ledger, lab)
    node.finish()
    (unread,) = ledger.broker.report_lists.read("c0", [lab.id])  # and dies
    assert len(unread.reports) == 1
    ledger.collector = Collector(ledger.fed, "c1")
    ledger.collector.look()
    assert ledger.collector.collect(0.0) is None, "another collector reads these"
    ledger.broker.redis.delete(f"umbel:claim:{lab.id}")  # which expires
    ledger.collect()
    assert ledger.state(answer) == "succeeded"


def test_reports_whose_transaction_failed_are_taken_in_later(
    ledger: Ledger, lab: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, answer = _hold(ledger, lab)
    node.finish()

    def fail(*_: Any) -> None:
        raise DatabaseUnavailable("the database went away")

    with monkeypatch.context() as patch, pytest.raises(DatabaseUnavailable):
        patch.setattr("federation.services.collector.apply_reports", fail)
        ledger.collect()
    node.beat()
    ledger.collect()
    assert ledger.state(answer) == "succeeded"


def test_the_sweeper_may_run_twice_at_any_time(ledger: Ledger, lab: FakeEndpoint) -> None:
    _, answer = _hold(ledger, lab)
    other = sweeper.Sweeper(ledger.fed)
    ledger.sweep(after=61)
    other.sweep()
    assert _attempt(ledger, answer) == 2
    assert lab.queued_calls() == 1


def test_a_runner_death_and_a_node_death_are_counted_alike(ledger: Ledger, lab: FakeEndpoint) -> None:
    node, answer = _hold(ledger, lab, max_attempts=2)
    (bundle,) = node.held.values()
    node.report({bundle.id: [outcome(bundle, bundle.calls[0], Status.LOST)]})
    ledger.collect()
    node.take()
    node.beat()
    ledger.collect()
    ledger.sweep(after=61)
    assert ledger.task(answer["task_ids"][0])["code"] == "WORKER_LOST"
