"""Everything at once: several submitters, collectors, sweepers, cancellers and followers on one ledger."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from federation.db.errors import DatabaseUnavailable
from federation.ledger.cancel import cancel_group, cancel_task
from federation.ledger.results import results_after
from federation.registry import endpoints, functions, users
from federation.services.collector import Collector
from federation.services.sweeper import Sweeper
from tests.support.endpoint import FakeEndpoint, FakeNode, outcome
from tests.support.ledger import Ledger
from umbel.protocol import names
from umbel.protocol.errors import Conflict, NotFound
from umbel.protocol.messages import Status

SECONDS = 6.0


class _Crowd:
    """Threads that repeat an action until they are stopped, and the errors in them."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.failures: list[BaseException] = []
        self._threads: list[threading.Thread] = []

    def let(self, act: Callable[[random.Random], Any], times: int = 1) -> None:
        """Start ``times`` threads that call ``act`` repeatedly."""
        for _ in range(times):
            seed = len(self._threads)
            self._threads.append(threading.Thread(target=self._run, args=(act, random.Random(seed))))
            self._threads[-1].start()

    def _run(self, act: Callable[[random.Random], Any], chance: random.Random) -> None:
        try:
            while not self.stop.is_set():
                act(chance)
        except BaseException as error:  # stored and raised by the test
            self.failures.append(error)
            self.stop.set()

    def end(self) -> None:
        """Stop all threads; raise the first error."""
        self.stop.set()
        for thread in self._threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in self._threads), "a thread hangs"
        if self.failures:
            raise self.failures[0]


class _Follower:
    """Reads a group's results as they arrive, and records their order."""

    def __init__(self, ledger: Ledger, group_id: str):
        self.ledger, self.group_id = ledger, group_id
        self.seen: list[int] = []
        self.ended: Counter[str] = Counter()

    def follow(self, _: random.Random) -> None:
        """Poll once."""
        if not self.poll():
            time.sleep(0.005)

    def poll(self) -> int:
        """Read the available results; return how many. Numbers continue without a gap."""
        try:
            found = results_after(self.ledger.fed, self.ledger.me, self.group_id, len(self.seen), 500)
        except NotFound:
            return 0  # nothing has been submitted yet
        self.seen += [result["completion"] for result in found["results"]]
        self.ended.update(result["task_id"] for result in found["results"])
        assert self.seen[-500:] == list(range(1, len(self.seen) + 1))[-500:]
        return len(found["results"])


def _work(node: FakeNode) -> Callable[[random.Random], None]:
    """A node that finishes most bundles, returns or loses some calls, and sometimes restarts."""

    def act(chance: random.Random) -> None:
        for bundle in node.take(2):
            kinds = [Status.SUCCEEDED] * 8 + [Status.FAILED, Status.RETURNED, Status.LOST]
            node.report({bundle.id: [outcome(bundle, call, chance.choice(kinds)) for call in bundle.calls]})
        if chance.random() < 0.05:
            node.repeat()
        if chance.random() < 0.03:
            node.restart()
        elif chance.random() < 0.3:
            node.beat()
        time.sleep(0.002)

    return act


class _Users:
    """What users do: submit into a few groups on a few endpoints, and cancel."""

    def __init__(self, ledger: Ledger, places: list[FakeEndpoint], groups: list[str]):
        self.ledger, self.places, self.groups = ledger, places, groups
        self.answers: list[dict[str, Any]] = []

    def submit(self, chance: random.Random) -> None:
        """Submit some calls."""
        self.answers.append(
            self.ledger.submit(
                chance.choice(self.places),
                chance.choice([1, 5, 200]),
                group_id=chance.choice(self.groups),
                key=names.new_id(),
                retries=chance.choice([0, 1]),
                expires=chance.choice([None, 2.0]),
            )
        )
        time.sleep(0.02)

    def cancel(self, chance: random.Random) -> None:
        """Cancel a task, now and then a group."""
        if self.answers:
            answer = chance.choice(self.answers[-20:])
            cancel_task(self.ledger.fed, self.ledger.me, chance.choice(answer["task_ids"]))
            if chance.random() < 0.02:
                cancel_group(self.ledger.fed, self.ledger.me, answer["group_id"])
        time.sleep(0.03)


def _collect(ledger: Ledger, name: str) -> Callable[[random.Random], None]:
    collector = Collector(ledger.fed, name)

    def act(_: random.Random) -> None:
        collector.heartbeat()
        try:
            collector.collect(0.05)
        except DatabaseUnavailable as error:  # like Collector.run: retry after a deadlock in PostgreSQL
            assert "deadlock" in str(error)

    return act


def _sweep(ledger: Ledger) -> Callable[[random.Random], None]:
    sweeper = Sweeper(ledger.fed)

    def act(_: random.Random) -> None:
        sweeper.sweep()
        time.sleep(0.05)

    return act


def test_everything_at_once_ends_every_task_once(ledger: Ledger, lab: FakeEndpoint) -> None:
    places = [lab, ledger.endpoint("other"), ledger.endpoint("third")]
    groups = [names.new_id() for _ in range(3)]
    users = _Users(ledger, places, groups)
    followers = [_Follower(ledger, group_id) for group_id in groups]
    crowd = _Crowd()
    crowd.let(users.submit, 3)
    crowd.let(users.cancel)
    for number in range(2):
        crowd.let(_collect(ledger, f"together-{number}"))
        crowd.let(_sweep(ledger))
    for place in places:
        crowd.let(_work(place.node("n1")))
    for follower in followers:
        crowd.let(follower.follow)
    crowd.stop.wait(SECONDS)
    crowd.end()
    _drain(ledger, places)
    for follower in followers:
        while follower.poll():
            pass
    told: Counter[str] = sum((follower.ended for follower in followers), Counter())
    assert told == Counter(task_id for answer in users.answers for task_id in answer["task_ids"])
    assert len(told) > 300


def _drain(ledger: Ledger, places: list[FakeEndpoint]) -> None:
    """Healthy workers run the remaining calls."""
    nodes = [place.node("n1") for place in places]
    for _ in range(200):
        for node in nodes:
            node.take()
            node.finish()
            node.beat()
        ledger.collect()
        ledger.sweep(after=5)
        with ledger.fed.database.read() as connection:
            left = connection.exec_driver_sql("SELECT count(*) FROM tasks WHERE finished IS NULL").scalar()
        if not left:
            return
    pytest.fail(f"{left} tasks never end")


def _at_once(*acts: Callable[[], Any]) -> list[Any]:
    """Call these functions at the same time; return what each returned or raised."""
    gate = threading.Barrier(len(acts))
    got: list[Any] = [None] * len(acts)

    def run(number: int) -> None:
        gate.wait(10)
        try:
            got[number] = acts[number]()
        except Exception as error:  # returned to the test, which checks it
            got[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(acts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return got


def test_an_endpoint_is_not_deleted_under_a_submission(ledger: Ledger) -> None:
    """Either the submission is first and the endpoint is in use, or it is deleted and accepts nothing."""
    for number in range(15):
        place = ledger.endpoint(f"short-lived-{number}")
        answer, deleted = _at_once(
            lambda: ledger.submit(place, 50), lambda: endpoints.delete(ledger.fed, ledger.me, place.id)
        )
        if isinstance(answer, NotFound):
            assert deleted is None
        else:
            assert isinstance(deleted, Conflict), (answer, deleted)
            assert ledger.state(answer) == "dispatched+queued"


def test_the_same_user_and_function_are_made_once(ledger: Ledger) -> None:
    for number in range(5):
        made = _at_once(*[lambda: users.ensure_user(ledger.fed, f"user-{number}")] * 6)
        assert len(set(made)) == 1, made
        kept = _at_once(
            *[lambda: functions.register(ledger.fed, ledger.me, name="f", body=b"%d" % number)["id"]] * 6
        )
        assert len(set(kept)) == 1, kept
