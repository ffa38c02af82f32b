"""Everything that can be lost: nodes, bundles, reports, the broker."""

from __future__ import annotations

from typing import Any

import pytest

from federation.db.errors import DatabaseUnavailable
from federation.ledger import node_rows
from federation.services import sweeper
from federation.services.collector import Collector
from tests.support.endpoint import FakeEndpoint, FakeNode, outcome
from tests.support.ledger import Ledger
from umbel.protocol import names
from umbel.protocol.messages import Status


def _hold(ledger: Ledger, lab: FakeEndpoint, **options: Any) -> Any:
    """A node that has the only bundle."""
    node = lab.node()
    ledger.collect()
    answer = ledger.submit(lab, 1, **options)
    node.take()
    return node, answer


def _pass(ledger: Ledger, seconds: float, *present: FakeNode) -> None:
    """Let time pass in which these nodes beat, collectors collect and the sweeper sweeps."""
    while seconds > 0:
        ledger.clock.forward(min(5.0, seconds))
        for node in present:
            node.beat()
        ledger.collect()
        ledger.sweeper.sweep()
        seconds -= 5.0


def _live(ledger: Ledger, lab: FakeEndpoint) -> list[str]:
    """The nodes that are not considered lost, whenever their beats were seen."""
    with ledger.fed.database.read() as connection:
        return [row.name for row in node_rows.live_instances(connection, lab.no)]


def _attempt(ledger: Ledger, answer: dict[str, Any]) -> int:
    return int(ledger.task(answer["task_ids"][0])["attempt"])


def _ends(ledger: Ledger, node: FakeNode, answer: dict[str, Any], attempt: int) -> None:
    """The node takes what is queued, finishes it, and this attempt is the one that succeeds."""
    node.take()
    node.finish()
    ledger.collect()
    assert ledger.state(answer) == "succeeded" and _attempt(ledger, answer) == attempt


# Nodes


def test_the_calls_of_a_silent_node_go_to_another(ledger: Ledger, lab: FakeEndpoint) -> None:
    _, answer = _hold(ledger, lab)
    other = lab.node("n2")
    _pass(ledger, 70, other)
    (bundle,) = other.take()
    assert bundle.calls[0].attempt == 2
    other.finish()
    ledger.collect()
    assert ledger.state(answer) == "succeeded"
    assert ledger.task(answer["task_ids"][0])["node"] == "n2"


def test_a_node_that_beats_in_time_keeps_its_calls(ledger: Ledger, lab: FakeEndpoint) -> None:
    node, answer = _hold(ledger, lab)
    for _ in range(10):
        ledger.sweep(after=50)
        assert ledger.state(answer) == "dispatched" and _attempt(ledger, answer) == 1
        node.beat()


def test_one_silent_node_takes_no_other_with_it(ledger: Ledger, lab: FakeEndpoint) -> None:
    node, answer = _hold(ledger, lab)
    lab.node("n2")
    ledger.endpoint("other").node("n3")
    _pass(ledger, 80, node)
    assert ledger.state(answer) == "dispatched" and _attempt(ledger, answer) == 1
    assert [each["live"] for each in ledger.nodes(lab)] == [True, False]


def test_each_node_is_marked_lost_by_itself(
    ledger: Ledger, lab: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nodes of two endpoints are silent, more than one batch of them; another one beats."""
    monkeypatch.setattr(sweeper, "BATCH", 2)
    other = ledger.endpoint("other")
    nodes = [lab.node("n0"), lab.node("n1"), lab.node("n2"), other.node("n0"), other.node("n1")]
    ledger.collect()
    answers = []
    for node in nodes:
        answers.append(ledger.submit(node.endpoint, 1))
        assert len(node.take()) == 1
    _pass(ledger, 80, nodes[1])
    assert [_attempt(ledger, answer) for answer in answers] == [2, 1, 2, 2, 2]
    assert [(each["name"], each["live"]) for each in ledger.nodes(lab)] == [
        ("n0", False),
        ("n1", True),
        ("n2", False),
    ]
    assert [each["live"] for each in ledger.nodes(other)] == [False, False]


def test_nodes_die_max_attempts_times_under_a_call(ledger: Ledger, lab: FakeEndpoint) -> None:
    answer = ledger.submit(lab, 1, max_attempts=2)
    for number in range(2):
        _take_and_die(ledger, lab, f"n{number}")
    task = ledger.task(answer["task_ids"][0])
    assert (task["state"], task["code"], task["attempt"]) == ("failed", "WORKER_LOST", 2)
    assert ledger.results(answer["group_id"])["results"][0]["code"] == "WORKER_LOST"
    assert answer["group_id"] in ledger.broker.woken


def _take_and_die(ledger: Ledger, lab: FakeEndpoint, name: str) -> None:
    """A node joins, receives what is sent, and never beats again."""
    node = lab.node(name)
    ledger.collect()
    node.take()
    assert node.held, "nothing was sent"
    _pass(ledger, 70)


def test_the_death_of_a_batch_jobs_node_is_not_the_calls_failure(ledger: Ledger, lab: FakeEndpoint) -> None:
    """Sites stop nodes: by preemption, by a fault, at the end of the walltime."""
    answer = ledger.submit(lab, 1, max_attempts=2)
    for number in range(5):
        _take_and_die(ledger, lab, f"umbel-0123abcd-0000000{number}.cn1")
        assert ledger.task(answer["task_ids"][0])["state"] in ("queued", "dispatched")


def test_what_a_node_had_fetched_and_not_noted_is_counted(ledger: Ledger, lab: FakeEndpoint) -> None:
    """It may have been started: the message was in the node's own list."""
    node = lab.node()
    ledger.collect()
    answer = ledger.submit(lab, 1)
    node.take(note=False)
    _pass(ledger, 30, node)
    assert _attempt(ledger, answer) == 1
    other = lab.node("n2")
    _pass(ledger, 70, other)
    _ends(ledger, other, answer, 2)


def test_silence_says_nothing_while_nobody_looks(ledger: Ledger, lab: FakeEndpoint) -> None:
    """The sweeper was suspended for an hour: nodes get time to beat before any is considered lost."""
    node, answer = _hold(ledger, lab)
    ledger.sweep()
    ledger.clock.forward(3600)
    ledger.sweep()
    assert ledger.state(answer) == "dispatched" and _attempt(ledger, answer) == 1
    ledger.sweep(after=50)
    node.beat()
    ledger.sweep(after=30)
    assert ledger.state(answer) == "dispatched" and _attempt(ledger, answer) == 1


def test_silence_says_nothing_while_the_broker_is_down(ledger: Ledger, lab: FakeEndpoint) -> None:
    node, answer = _hold(ledger, lab)
    ledger.sweep()
    ledger.broker.down = True
    for _ in range(20):
        ledger.clock.forward(5)
        ledger.sweeper.sweep()
    ledger.broker.down = False
    ledger.sweep()
    assert ledger.state(answer) == "dispatched" and _attempt(ledger, answer) == 1
    node.beat()
    _ends(ledger, node, answer, 1)


def test_a_collector_that_is_down_costs_nothing(ledger: Ledger, lab: FakeEndpoint) -> None:
    """Reports wait for an hour. What they end is neither lost nor started again."""
    node, answer = _hold(ledger, lab, max_attempts=1)
    node.finish()
    for _ in range(60):
        ledger.clock.forward(5)
        node.beat()
        ledger.sweeper.sweep()
    assert ledger.state(answer) == "dispatched" and ledger.broker.sends == 1
    ledger.collect()
    assert ledger.state(answer) == "succeeded" and _attempt(ledger, answer) == 1


def test_a_node_that_comes_back_works_again(ledger: Ledger, lab: FakeEndpoint) -> None:
    """It was suspended, considered lost, and goes on with what it had, which another one has done."""
    node, answer = _hold(ledger, lab)
    other = lab.node("n2")
    _pass(ledger, 70, other)
    _ends(ledger, other, answer, 2)
    node.finish()
    _pass(ledger, 20, node, other)
    assert [each["live"] for each in ledger.nodes(lab)] == [True, True]
    again = ledger.submit(lab, 1, max_attempts=1)
    node.take()
    _pass(ledger, 60, node, other)
    _ends(ledger, node, again, 1)


def test_silence_says_nothing_while_the_broker_is_new(ledger: Ledger, lab: FakeEndpoint) -> None:
    """Beats may have been lost with the broker's data, so silence from before counts no more."""
    _, answer = _hold(ledger, lab)
    ledger.listen(58)
    ledger.broker.wipe()
    ledger.sweep(after=1)
    ledger.sweep(after=50)
    assert _attempt(ledger, answer) == 1 and _live(ledger, lab)
    _pass(ledger, 60)
    assert _attempt(ledger, answer) == 2 and not _live(ledger, lab)


def test_a_new_instance_is_the_old_ones_death(ledger: Ledger, lab: FakeEndpoint) -> None:
    node, answer = _hold(ledger, lab)
    node.restart()
    _pass(ledger, 5, node)
    _ends(ledger, node, answer, 2)


def test_an_older_instance_is_not_the_new_ones_death(ledger: Ledger, lab: FakeEndpoint) -> None:
    node = lab.node()
    node.restart()
    ledger.collect()
    answer = ledger.submit(lab, 1)
    node.take()
    late = FakeNode(lab, node.name, 2)  # the description of the first run arrives again
    late.beat()
    _pass(ledger, 60, node, late)
    _ends(ledger, node, answer, 1)


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


def test_a_goodbye_with_open_bundles_gives_them_back(ledger: Ledger, lab: FakeEndpoint) -> None:
    node, answer = _hold(ledger, lab)
    node.goodbye()
    other = lab.node("n2")
    _pass(ledger, 20, other)
    assert len(other.take()) == 1
    other.finish()
    ledger.collect()
    assert ledger.state(answer) == "succeeded"


def test_a_late_goodbye_of_the_old_instance_is_not_the_new_ones(ledger: Ledger, lab: FakeEndpoint) -> None:
    node, answer = _hold(ledger, lab)
    old = node.instance
    node.restart()
    _pass(ledger, 5, node)
    node.take()
    held, node.held = node.held, {}
    node.instance, new = old, node.instance
    node.goodbye()
    node.instance, node.held = new, held
    _pass(ledger, 30, node)
    assert not node.take() and [each["live"] for each in ledger.nodes(lab)] == [True]


# Bundles


def test_a_bundle_that_was_never_pushed_is_sent_again_for_nothing(ledger: Ledger, lab: FakeEndpoint) -> None:
    node = lab.node()
    ledger.collect()
    ledger.broker.deaf = True
    answer = ledger.submit(lab, 3, max_attempts=1)
    ledger.broker.deaf = False
    _pass(ledger, 5, node)
    assert not node.take(), "it may still be on its way"
    _pass(ledger, 10, node)
    _ends(ledger, node, answer, 1)


def test_a_bundle_that_is_pushed_too_late_is_not_pushed(ledger: Ledger, lab: FakeEndpoint) -> None:
    """The process was suspended between its transaction and the push, and its calls were sent again."""
    node = lab.node()
    ledger.collect()
    late: list[Any] = []
    send, ledger.broker.send = ledger.broker.send, late.extend  # type: ignore[method-assign]
    answer = ledger.submit(lab, 1, max_attempts=1)
    ledger.broker.send = send  # type: ignore[method-assign]
    _pass(ledger, 15, node)
    assert len(node.take()) == 1
    ledger.broker.send(late)
    assert not node.take(), "two bundles of one call"
    ledger.broker.wipe()
    ledger.broker.send(late)
    ledger.sweep()
    ledger.broker.send(late)
    assert not ledger.broker.queues[lab.id]
    node.beat()
    _ends(ledger, node, answer, 1)


def test_a_bundle_in_the_queue_is_not_sent_again(ledger: Ledger, lab: FakeEndpoint) -> None:
    answer = ledger.submit(lab, 3)
    sent = ledger.broker.sends
    for _ in range(5):
        ledger.sweep(after=3600)
    assert ledger.broker.sends == sent
    assert ledger.state(answer) == "dispatched"


def test_bundles_that_wait_for_a_live_node_are_not_sent_again(ledger: Ledger, lab: FakeEndpoint) -> None:
    """More bundles than one question to the broker returns, with a node that beats and takes none."""
    node = lab.node(slots=40)
    ledger.collect()
    answer = ledger.submit(lab, 500)
    sent = ledger.broker.sends
    assert len(ledger.broker.queues[lab.id]) == sent > 100
    _pass(ledger, 40, node)
    assert ledger.broker.sends == sent and _attempt(ledger, answer) == 1


def test_a_bundle_taken_after_a_long_wait_is_not_sent_again(ledger: Ledger, lab: FakeEndpoint) -> None:
    answer = ledger.submit(lab, 3)
    ledger.clock.forward(3600)
    node = lab.node()
    ledger.collect()
    ledger.sweep()
    node.take(note=False)
    sent = ledger.broker.sends
    _pass(ledger, 40, node)
    assert ledger.broker.sends == sent and _attempt(ledger, answer) == 1


def test_a_bundle_that_a_live_node_holds_is_not_sent_again(ledger: Ledger, lab: FakeEndpoint) -> None:
    node, answer = _hold(ledger, lab)
    _pass(ledger, 200, node)
    assert ledger.broker.sends == 1 and _attempt(ledger, answer) == 1


def test_a_bundle_that_its_node_has_lost_is_sent_again_and_counted(ledger: Ledger, lab: FakeEndpoint) -> None:
    """It was pushed, so its calls may have run."""
    node, answer = _hold(ledger, lab)
    node.held.clear()
    node.sync()
    _pass(ledger, 9, node)
    assert not node.take(), "a node that was away may come back with it"
    _pass(ledger, 20, node)
    _ends(ledger, node, answer, 2)


def test_nodes_that_cannot_have_a_lost_bundle_do_not_delay_it(ledger: Ledger, lab: FakeEndpoint) -> None:
    """A node shut down and beats no more; the node of another endpoint has been silent for a while."""
    lab.node("old").goodbye()
    ledger.collect()
    ledger.endpoint("other").node()
    node = lab.node()
    ledger.collect()
    ledger.broker.deaf = True
    answer = ledger.submit(lab, 1)
    ledger.broker.deaf = False
    _pass(ledger, 15, node)
    _ends(ledger, node, answer, 1)


def test_bundles_that_wait_do_not_hide_a_lost_one(ledger: Ledger, lab: FakeEndpoint) -> None:
    busy = [ledger.endpoint(f"busy{number}").node() for number in range(4)]
    for other in busy:
        ledger.submit(other.endpoint, 100)
    ledger.broker.deaf = True
    answer = ledger.submit(lab, 10)
    ledger.broker.deaf = False
    node = lab.node()
    _pass(ledger, 45, node, *busy)
    while node.take():
        node.finish()
        ledger.collect()
    assert ledger.state(answer) == "succeeded"


def test_sweeping_asks_little_about_endpoints_that_are_away(
    ledger: Ledger, lab: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.submit(lab, 100)
    ledger.sweep(after=60)
    asked: list[str] = []
    queued = ledger.broker.queued

    def ask(endpoint_id: str) -> set[str]:
        asked.append(endpoint_id)
        return queued(endpoint_id)

    monkeypatch.setattr(ledger.broker, "queued", ask)
    for _ in range(5):
        ledger.sweep(after=2)
    assert asked == []
    ledger.sweep(after=30)
    assert asked == [lab.id]


# The broker


def test_a_broker_that_lost_everything_gets_it_again(ledger: Ledger, lab: FakeEndpoint) -> None:
    """What waited in it did not start, and what a node has is not sent again."""
    node = lab.node(slots=1)
    ledger.collect()
    answer = ledger.submit(lab, 2000, max_attempts=1)
    (held,) = node.take(1)
    ledger.broker.wipe()
    ledger.sweep(after=0.1)
    assert ledger.broker.redis.exists(names.EPOCH_KEY)
    _pass(ledger, 10, node)
    node.finish([held])
    done = len(held.calls)
    ledger.collect()
    while node.take():
        assert all(call.attempt == 1 for bundle in node.held.values() for call in bundle.calls)
        done += node.finish()
        ledger.collect()
    assert done == 2000 and ledger.state(answer) == "succeeded"


def test_wipes_cost_an_endpoint_that_is_away_no_attempt(ledger: Ledger, lab: FakeEndpoint) -> None:
    answer = ledger.submit(lab, 3, max_attempts=1)
    for _ in range(5):
        ledger.broker.wipe()
        ledger.sweep(after=60)
    node = lab.node()
    _pass(ledger, 10, node)
    _ends(ledger, node, answer, 1)


def test_a_wipe_swallows_no_report(ledger: Ledger, lab: FakeEndpoint) -> None:
    """The node keeps it until a collector has taken it, and pushes it again."""
    node, answer = _hold(ledger, lab, max_attempts=1)
    node.finish()
    ledger.broker.wipe()
    _pass(ledger, 30, node)
    assert ledger.state(answer) == "succeeded" and _attempt(ledger, answer) == 1
    assert not node.unapplied


def test_after_a_wipe_a_node_that_is_away_may_have_a_bundle(ledger: Ledger, lab: FakeEndpoint) -> None:
    """Nothing is decided before it announces what it holds."""
    node, answer = _hold(ledger, lab, max_attempts=1)
    ledger.broker.wipe()
    other = lab.node("n2")
    _pass(ledger, 50, other)
    assert not other.take() and ledger.state(answer) == "dispatched"
    _pass(ledger, 30, node, other)
    _ends(ledger, node, answer, 1)


def test_after_a_wipe_a_node_that_never_comes_back_costs_an_attempt(
    ledger: Ledger, lab: FakeEndpoint
) -> None:
    _, answer = _hold(ledger, lab)
    ledger.broker.wipe()
    other = lab.node("n2")
    _pass(ledger, 100, other)
    _ends(ledger, other, answer, 2)


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
    _pass(ledger, 30, node)
    _ends(ledger, node, answer, 1)


def test_an_endpoint_whose_keys_were_dropped_starts_over(ledger: Ledger, lab: FakeEndpoint) -> None:
    """It exceeded its quota: only its own keys are lost."""
    node, answer = _hold(ledger, lab, max_attempts=1)
    more = ledger.submit(lab, 1, max_attempts=1)
    ledger.broker.drop_endpoint(lab.id)
    _pass(ledger, 20, node)
    node.take()
    node.finish()
    ledger.collect()
    assert (ledger.state(answer), ledger.state(more)) == ("succeeded", "succeeded")
    assert _attempt(ledger, answer) == _attempt(ledger, more) == 1


def test_a_broker_is_restored_once(ledger: Ledger, lab: FakeEndpoint) -> None:
    ledger.submit(lab, 10)
    ledger.broker.wipe()
    ledger.clock.forward(1)
    assert ledger.sweeper.restore_broker() and not ledger.sweeper.restore_broker()


def test_a_broker_that_was_restarted_with_its_data_is_emptied(ledger: Ledger, lab: FakeEndpoint) -> None:
    """Its data may be older than what nodes have done since."""
    node, answer = _hold(ledger, lab, max_attempts=1)
    (bundle,) = node.held.values()
    message = node.redis.get("umbel:run")
    assert message is not None
    node.redis.set("umbel:run", "another process")
    node.redis.lpush(names.queue_key(lab.id), b"an old message")
    assert ledger.sweeper.restore_broker()
    assert not node.redis.exists(names.queue_key(lab.id))
    _pass(ledger, 20, node)
    assert bundle.id in node.held
    _ends(ledger, node, answer, 1)


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
    other = sweeper.Sweeper(ledger.fed, ledger.clock.ticks)
    for _ in range(15):
        ledger.clock.forward(5)
        ledger.sweeper.sweep()
        other.sweep()
    assert _attempt(ledger, answer) == 2
    assert lab.queued_calls() == 1


def test_a_runner_death_and_a_node_death_are_counted_alike(ledger: Ledger, lab: FakeEndpoint) -> None:
    node, answer = _hold(ledger, lab, max_attempts=2)
    (bundle,) = node.held.values()
    node.report({bundle.id: [outcome(bundle, bundle.calls[0], Status.LOST)]})
    ledger.collect()
    node.take()
    _pass(ledger, 70)
    assert ledger.task(answer["task_ids"][0])["code"] == "WORKER_LOST"
