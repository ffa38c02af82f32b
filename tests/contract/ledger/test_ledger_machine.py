"""The life of tasks against a model: hypothesis submits, reports, repeats, cancels, kills and loses."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select

from federation.broker.client import Outgoing
from federation.db.options import Options
from federation.db.tables import groups, tasks
from federation.ledger.cancel import cancel_group, cancel_task
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
    """The expected state of one task, tracked outside the ledger.

    ``may``: ends that it may have come to by now; ``must``: it has come to one of them; ``end``: the one
    that the ledger has shown, for ever.
    """

    options: Options
    may: set[End] = field(default_factory=set)
    must: bool = False
    end: End | None = None
    #: bundles it was sent in; those that returned it, and the attempts in which it raised
    sent: int = 0
    returned: set[str] = field(default_factory=set)
    raised: set[int] = field(default_factory=set)

    def told(self, bundle_id: str, told: Outcome) -> None:
        """An outcome was applied."""
        if self.must or self.end:
            return
        if told.status == Status.RETURNED:
            self.returned.add(bundle_id)
        if told.status == Status.SUCCEEDED:
            self.may.add(("succeeded", None, told.payload))
            self.must = True
        elif told.status == Status.FAILED:
            self.may.add(("failed", told.code, told.payload or None))
            self.must = told.code != RAISED or not self.options.retries
            self.raised.add(told.attempt)
        elif told.status == Status.LOST:
            self.may.add(WORKER_LOST)

    def check(self, end: End) -> None:
        """Fail if there was no reason for this end."""
        assert end in self.may, f"ended as {end} out of the blue, not {self.may}"
        if end[1] == RAISED:
            assert len(self.raised) > self.options.retries, "not retried as often as asked for"
        if end == WORKER_LOST:
            starts = self.sent - len(self.returned) - len(self.raised)
            assert starts >= self.options.max_attempts, "given up before it was tried often enough"


_statuses = st.lists(
    st.sampled_from(
        [
            Status.SUCCEEDED,
            Status.FAILED,
            Status.FAILED,
            "timeout",
            Status.LOST,
            Status.RETURNED,
            Status.RUNNING,
        ]
    ),
    min_size=1,
    max_size=3,
)


_submissions = st.fixed_dictionaries(
    {
        "count": st.sampled_from([1, 2, 6]),
        "retries": st.sampled_from([0, 0, 2]),
        "max_attempts": st.integers(1, 2),
        "expires": st.sampled_from([None, None, 20.0]),
        "priority": st.integers(-1, 1),
    }
)
_KINDS = ["submit"] * 3 + ["work"] * 8 + ["take"] * 2 + ["report"] * 2 + ["beat"] * 2 + ["repeat"] * 2
_KINDS += ["sweep", "trouble", "cancel"]
_TROUBLES = ["restart", "goodbye", "wipe", "deaf"]


class Life(RuleBasedStateMachine):
    """One endpoint with two nodes. Reports stay in ``sent`` until they are collected, in order."""

    new_database: Callable[[], AbstractContextManager[str]]
    redis_url: str

    def __init__(self) -> None:
        super().__init__()
        self._open = ExitStack()
        with redis.Redis.from_url(self.redis_url) as server:
            server.flushall()
        home = Path(self._open.enter_context(tempfile.TemporaryDirectory()))
        url = self._open.enter_context(self.new_database())
        self.ledger: Ledger = self._open.enter_context(
            open_ledger(home, database_url=url, broker_url=self.redis_url)
        )
        self.lab: FakeEndpoint = self.ledger.endpoint(f"e-{names.new_id()}")
        self.nodes = [self.lab.node("n0"), self.lab.node("n1")]
        self.group = names.new_id()
        self.known: dict[str, Model] = {}
        self.sent: list[list[tuple[str, Outcome]]] = []
        self.past: list[tuple[bytes, list[tuple[str, Outcome]]]] = []
        self.seen = 0

    def _count(self, outgoing: Sequence[Outgoing]) -> None:
        """Record which calls are sent, and send them."""
        for item in outgoing:
            bundle, _ = Bundle.open_head(
                self.nodes[0].verifier, item.head, endpoint=self.lab.id, now=self.ledger.clock()
            )
            for call in bundle.calls:
                model = self.known.setdefault(call.task_id, Model(Options()))
                model.sent += 1
        self._send(outgoing)

    @initialize()
    def start(self) -> None:
        self._send = self.ledger.broker.send
        self.ledger.broker.send = self._count  # type: ignore[method-assign]
        self.ledger.collect()

    @rule(kind=st.sampled_from(_KINDS), number=st.integers(0, 1), which=st.integers(0, 99), data=st.data())
    def step(self, kind: str, number: int, which: int, data: Any) -> None:
        """Run one step; frequent kinds make sure that most submitted calls are processed."""
        if kind == "submit":
            self.submit(**data.draw(_submissions))
        elif kind == "work":
            self.work(self.nodes[number], data.draw(_statuses))
        elif kind == "trouble":
            self.trouble(self.nodes[number], data.draw(st.sampled_from(_TROUBLES)))
        elif kind == "cancel":
            self.cancel(which, everything=which % 5 == 0)
        elif kind == "sweep":
            self.sweep(data.draw(st.sampled_from([0.0, 6.0, 25.0, 70.0])))
        elif kind == "repeat":
            self.repeat(which % 8)
        elif kind == "take":
            self.nodes[number].take(1)
        elif kind == "report":
            self.report(which, data.draw(_statuses))
        else:
            self.nodes[number].beat()
            self.collect()

    def submit(self, count: int, **asked: Any) -> None:
        """Submit some calls of one kind."""
        answer = self.ledger.submit(self.lab, count, group_id=self.group, **asked)
        for task_id in answer["task_ids"]:  # already known if it was sent at once
            self.known.setdefault(task_id, Model(Options())).options = Options(**asked)

    def work(self, node: FakeNode, statuses: list[str]) -> None:
        """A node receives a bundle, reports it, and the report is collected."""
        for bundle in node.take(1):
            self._say(node, bundle, statuses)
        self.collect()

    def report(self, which: int, statuses: list[str]) -> None:
        """A node reports a bundle that it received earlier."""
        held = [(node, bundle) for node in self.nodes for bundle in node.held.values()]
        if held:
            self._say(*held[which % len(held)], statuses)

    def _say(self, node: FakeNode, bundle: Bundle, statuses: list[str]) -> None:
        """Report a bundle; its calls end as ``statuses`` say, in turn."""
        outcomes = []
        for call, status in zip(bundle.calls, cycle(statuses)):
            options = self.known[call.task_id].options
            assert 1 <= call.attempt <= options.max_attempts + options.retries, "started too often"
            how = {"code": "TIMEOUT"} if status == "timeout" else {}
            outcomes.append(outcome(bundle, call, Status.FAILED if how else status, **how))
        node.report({bundle.id: outcomes})
        told = [(bundle.id, one) for one in outcomes]
        self.sent.append(told)
        self.past.append((node.last_report, told))

    def repeat(self, back: int) -> None:
        """A report is applied a second time."""
        if self.past:
            raw, told = self.past[max(0, len(self.past) - 1 - back)]
            self.ledger.broker.push_report(self.lab.id, raw)
            self.sent.append(told)
            self.collect()

    def collect(self) -> None:
        """All reports are collected, in order."""
        self.ledger.collect()
        for told in self.sent:
            for bundle_id, one in told:
                self.known[one.task_id].told(bundle_id, one)
        self.sent.clear()

    def trouble(self, node: FakeNode, how: str) -> None:
        """A node restarts, the broker loses its data, or bundles are lost in transit."""
        if how == "goodbye":
            node.goodbye()
        if how in ("goodbye", "restart"):
            node.restart()
        if how == "wipe":
            self.ledger.broker.wipe()
            self.sent.clear()
        self.ledger.broker.deaf = how == "deaf"
        self._may_be_lost()

    def _may_be_lost(self) -> None:
        for model in self.known.values():
            model.may.add(WORKER_LOST)

    def cancel(self, which: int, *, everything: bool) -> None:
        """A task or the group is cancelled."""
        chosen = sorted(self.known)
        if everything and chosen:
            cancel_group(self.ledger.fed, self.ledger.me, self.group)
        elif chosen:
            chosen = [chosen[which % len(chosen)]]
            cancel_task(self.ledger.fed, self.ledger.me, chosen[0])
        for task_id in chosen:
            model = self.known[task_id]
            if model.end is None:
                model.may, model.must = {CANCELLED}, True

    def sweep(self, seconds: float) -> None:
        """Time passes."""
        self.ledger.sweep(after=seconds)
        self._may_be_lost()
        for model in self.known.values():
            if model.options.expires is not None:
                model.may.add(EXPIRED)

    @invariant()
    def all_is_well(self) -> None:
        self.ledger.check()
        self._tasks_end_as_they_must_and_once()
        self._followers_miss_nothing()

    def _tasks_end_as_they_must_and_once(self) -> None:
        now = _ends(self.ledger)
        for task_id, model in self.known.items():
            end = now[task_id]
            if model.end is not None:
                assert end == model.end, "an end changed"
            elif end is not None:
                model.check(end)
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
        """Once everything works again, all tasks end."""
        try:
            self.ledger.broker.deaf = False
            for _ in range(60):
                if None not in _ends(self.ledger).values():
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


def _ends(ledger: Ledger) -> dict[str, End | None]:
    """How each task has ended, if it has."""
    with ledger.fed.database.read() as connection:
        query = select(tasks.c.id, groups.c.id).join(groups, groups.c.no == tasks.c.group_no)
        rows = connection.execute(query).all()
    ends: dict[str, End | None] = {task_id: None for task_id, _ in rows}
    for group_id in {group_id for _, group_id in rows}:
        for ended in ledger.results(group_id)["results"]:
            data = ended["result"] or ended["exception"]
            ends[ended["task_id"]] = ended["state"], ended["code"], data
    return ends


# it takes seconds, but shrinking a failure takes up to five minutes
@pytest.mark.timeout(600)
def test_the_life_of_tasks(postgresql: Server | None, broker_url: str) -> None:
    @contextmanager
    def database() -> Iterator[str]:
        if postgresql is None:
            yield ""
            return
        name = postgresql.new_database("empty")
        yield postgresql.url(name)
        postgresql.drop(name)

    class Here(Life):
        """On the database of these tests."""

        new_database = staticmethod(database)
        redis_url = broker_url

    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=int(os.environ.get("LIVES", 25)),
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
