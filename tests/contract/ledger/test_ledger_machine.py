"""The life of tasks against a model: hypothesis submits, reports, repeats, cancels, kills and loses."""

from __future__ import annotations

import base64
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select

from federation.ledger.cancel import cancel_group, cancel_task
from federation.options import Options
from federation.tables import groups, tasks
from tests.support.endpoint import FakeEndpoint, FakeNode, outcome
from tests.support.ledger import Ledger, open_ledger
from tests.support.postgres import Server
from umbel.protocol import names
from umbel.protocol.messages import Bundle, Outcome, Status

#: How a task may end: state, code, and the result's bytes.
End = tuple[str, str | None, bytes | None]
WORKER_LOST: End = ("failed", "WORKER_LOST", None)
EXPIRED: End = ("expired", None, None)
CANCELLED: End = ("cancelled", None, None)
RAISED = "TASK_ERROR"


@dataclass
class Model:
    """What is known of one task without looking into the ledger.

    ``may``: ends that it may have come to by now; ``must``: it has come to one of them; ``end``: the one
    that the ledger has shown, for ever.
    """

    options: Options
    may: set[End] = field(default_factory=set)
    must: bool = False
    end: End | None = None

    def told(self, told: Outcome) -> None:
        """An outcome was taken in."""
        if self.must or self.end:
            return
        if told.status == Status.SUCCEEDED:
            self.may.add(("succeeded", None, told.payload))
            self.must = True
        elif told.status == Status.FAILED:
            self.may.add(("failed", told.code, told.payload or None))
            self.must = told.code != RAISED or not self.options.retries
        elif told.status == Status.LOST:
            self.may.add(WORKER_LOST)


class Life(RuleBasedStateMachine):
    """One endpoint with two nodes. Reports lie in ``sent`` until they are taken in, in order."""

    new_database: Callable[[], AbstractContextManager[str]]

    def __init__(self) -> None:
        super().__init__()
        self._open = ExitStack()
        home = Path(self._open.enter_context(tempfile.TemporaryDirectory()))
        url = self._open.enter_context(self.new_database())
        self.ledger: Ledger = self._open.enter_context(open_ledger(home, database_url=url))
        self.lab: FakeEndpoint = self.ledger.endpoint(f"e-{names.new_id()}")
        self.nodes = [self.lab.node("n0"), self.lab.node("n1")]
        self.group = names.new_id()
        self.known: dict[str, Model] = {}
        self.sent: list[list[Outcome]] = []
        self.past: list[tuple[bytes, list[Outcome]]] = []
        self.seen = 0

    @initialize()
    def start(self) -> None:
        self.ledger.collect()

    @rule(
        count=st.sampled_from([1, 2, 9]),
        retries=st.sampled_from([0, 0, 2]),
        max_attempts=st.integers(1, 3),
        expires=st.sampled_from([None, None, 20.0]),
        priority=st.integers(-1, 1),
    )
    def submit(self, count: int, **asked: Any) -> None:
        answer = self.ledger.submit(self.lab, count, group_id=self.group, **asked)
        self.known.update((task_id, Model(Options(**asked))) for task_id in answer["task_ids"])

    @rule(number=st.integers(0, 1), most=st.integers(1, 4))
    def take(self, number: int, most: int) -> None:
        for bundle in self.nodes[number].take(most):
            for call in bundle.calls:
                options = self.known[call.task_id].options
                assert 1 <= call.attempt <= options.max_attempts + options.retries, "started too often"

    def _say(self, node: FakeNode, bundle: Bundle, chances: Any) -> None:
        outcomes = []
        for call in bundle.calls:
            status = chances.draw(st.sampled_from(_STATUSES))
            how = (
                {"code": chances.draw(st.sampled_from([RAISED, "TIMEOUT"]))}
                if status == Status.FAILED
                else {}
            )
            outcomes.append(outcome(bundle, call, status, **how))
        node.report({bundle.id: outcomes})
        self.sent.append(outcomes)
        self.past.append((node.last_report, outcomes))

    @precondition(lambda self: any(node.held for node in self.nodes))
    @rule(chances=st.data())
    def report(self, chances: Any) -> None:
        held = [(node, bundle) for node in self.nodes for bundle in node.held.values()]
        node, bundle = held[chances.draw(st.integers(0, len(held) - 1))]
        self._say(node, bundle, chances)

    @precondition(lambda self: self.past)
    @rule(chances=st.data())
    def repeat(self, chances: Any) -> None:
        raw, outcomes = self.past[chances.draw(st.integers(0, len(self.past) - 1))]
        self.ledger.broker.redis.lpush(names.REPORTS_KEY, raw)
        self.sent.append(outcomes)

    @rule()
    def collect(self) -> None:
        self.ledger.collect()
        for outcomes in self.sent:
            for told in outcomes:
                self.known[told.task_id].told(told)
        self.sent.clear()

    @rule(number=st.integers(0, 1))
    def beat(self, number: int) -> None:
        self.nodes[number].beat()

    @rule(number=st.integers(0, 1), clean=st.booleans())
    def stop(self, number: int, clean: bool) -> None:
        """A node goes and comes again, with or without a goodbye."""
        if clean:
            self.nodes[number].goodbye()
        self.nodes[number].restart()
        self._may_be_lost()

    def _may_be_lost(self) -> None:
        for model in self.known.values():
            model.may.add(WORKER_LOST)

    @precondition(lambda self: self.known)
    @rule(chances=st.data(), everything=st.booleans())
    def cancel(self, chances: Any, everything: bool) -> None:
        chosen = sorted(self.known)
        if everything:
            cancel_group(self.ledger.fed, self.ledger.me, self.group)
        else:
            chosen = [chosen[chances.draw(st.integers(0, len(chosen) - 1))]]
            cancel_task(self.ledger.fed, self.ledger.me, chosen[0])
        for task_id in chosen:
            model = self.known[task_id]
            if model.end is None:
                model.may, model.must = {CANCELLED}, True

    @rule(seconds=st.sampled_from([0.0, 6.0, 25.0, 70.0]))
    def sweep(self, seconds: float) -> None:
        self.ledger.sweep(after=seconds)
        self._may_be_lost()
        for model in self.known.values():
            if model.options.expires is not None:
                model.may.add(EXPIRED)

    @rule()
    def wipe(self) -> None:
        """The broker forgets bundles and reports."""
        self.ledger.broker.wipe()
        self.sent.clear()

    @rule(deaf=st.booleans())
    def lose(self, deaf: bool) -> None:
        """From now on bundles are lost on the way, or no more."""
        self.ledger.broker.deaf = deaf

    @invariant()
    def all_is_well(self) -> None:
        self.ledger.check()
        self._tasks_end_as_they_must_and_once()
        self._followers_miss_nothing()

    def _tasks_end_as_they_must_and_once(self) -> None:
        now = _ends(self.ledger)
        for task_id, model in self.known.items():
            end, starts = now[task_id]
            if model.end is not None:
                assert end == model.end, "an end changed"
            elif end is not None:
                assert end in model.may, f"ended as {end} out of the blue, not {model.may}"
                assert end != WORKER_LOST or starts >= model.options.max_attempts
                model.end = end
            else:
                assert not model.must, f"must have ended as one of {model.may}"

    def _followers_miss_nothing(self) -> None:
        if self.known:
            found = self.ledger.results(self.group, self.seen)["results"]
            assert [r["completion"] for r in found] == list(range(self.seen + 1, self.seen + 1 + len(found)))
            self.seen += len(found)
            assert self.seen == sum(model.end is not None for model in self.known.values())

    def teardown(self) -> None:
        """When all is well again, everything ends."""
        try:
            self.ledger.broker.deaf = False
            for _ in range(60):
                if not any(end is None for end, _ in _ends(self.ledger).values()):
                    break
                for node in self.nodes:
                    node.take()
                    node.finish()
                    node.beat()
                self.ledger.collect()
                self.ledger.sweep(after=5)
            else:
                pytest.fail("some tasks never end")
        finally:
            self._open.close()


_STATUSES = [Status.SUCCEEDED] * 3 + [Status.FAILED, Status.LOST, Status.RETURNED, Status.RUNNING]


def _ends(ledger: Ledger) -> dict[str, tuple[End | None, int]]:
    """How each task has ended, if it has, and how often it was started at no wish of its user's."""
    with ledger.fed.database.read() as connection:
        columns = tasks.c.id, tasks.c.attempt - tasks.c.retried, groups.c.id
        rows = connection.execute(select(*columns).join(groups, groups.c.no == tasks.c.group_no)).all()
    ends: dict[str, End] = {}
    for group_id in {group_id for _, _, group_id in rows}:
        for ended in ledger.results(group_id)["results"]:
            data = ended["result"] or ended["exception"]
            ends[ended["task_id"]] = ended["state"], ended["code"], base64.b64decode(data) if data else None
    return {task_id: (ends.get(task_id), starts) for task_id, starts, _ in rows}


def test_the_life_of_tasks(postgresql: Server | None) -> None:
    @contextmanager
    def database() -> Iterator[str]:
        if postgresql is None:
            yield ""
            return
        name = postgresql.new_database("empty")
        yield postgresql.url(name)
        postgresql.drop(name)

    class Here(Life):
        """On the database that these tests run over."""

        new_database = staticmethod(database)

    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=int(os.environ.get("LIVES", 25)),
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
