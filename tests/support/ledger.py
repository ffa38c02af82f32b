"""A federation in one process, run step by step: database, broker, collector, sweeper, clock."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from sqlalchemy import select

from federation.config.settings import Settings
from federation.context import Federation, open_federation
from federation.db.engine import Database
from federation.db.options import Options
from federation.db.tables import endpoints, tasks
from federation.ledger import query, results
from federation.ledger.submit import Submission, submit
from federation.registry import endpoints as endpoints_of
from federation.registry import functions, users
from federation.registry.users import User
from federation.services.collector import Collector
from federation.services.sweeper import Sweeper
from tests.support import invariants
from tests.support.clock import Clock, movable_clock
from tests.support.endpoint import FakeEndpoint
from tests.support.memory_broker import MemoryBroker
from tests.support.watched_broker import WatchedBroker


class Ledger:
    """One federation. Nothing happens in it that a test has not asked for.

    ``fed`` and ``broker`` are for looking closer, ``clock`` for letting time pass. ``me`` is a user,
    ``function_id`` a function of theirs.
    """

    #: Largest step of the clock in which the sweeper does not look, seconds.
    STEP = 8.0
    RECENT = 200.0

    def __init__(self, fed: Federation, broker: MemoryBroker | WatchedBroker, clock: Clock):
        self.fed, self.broker, self.clock = fed, broker, clock
        self.collector = Collector(fed, "c0")
        self.sweeper = Sweeper(fed, clock.ticks)
        self.me = users.ensure_user(fed, "ada")
        self.function_id = self.function(self.me, "dock")
        self.sweep()

    def user(self, name: str) -> User:
        """The user of this name."""
        return users.ensure_user(self.fed, name)

    def function(self, user: User, name: str) -> str:
        """Register a function and return its id."""
        return str(functions.register(self.fed, user, name=name, body=f"body of {name}".encode())["id"])

    def endpoint(self, name: str = "lab", owner: User | None = None) -> FakeEndpoint:
        """Register an endpoint."""
        return FakeEndpoint(self.fed, self.broker, owner or self.me, name)

    def submit(
        self,
        endpoint: FakeEndpoint,
        calls: int | Sequence[bytes] = 1,
        *,
        user: User | None = None,
        function_id: str | None = None,
        group_id: str | None = None,
        key: str | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Submit calls (so many with arguments of their own, or these); return the answer."""
        payloads = [b"p%d" % number for number in range(calls)] if isinstance(calls, int) else calls
        wanted = Submission(
            function_id or self.function_id, endpoint.id, payloads, group_id, Options(**options)
        )
        return submit(self.fed, user or self.me, wanted, key)

    def collect(self) -> Counter[str]:
        """Take in all nodes and reports; return how many tasks ended and how many outcomes were dropped."""
        counts: Counter[str] = Counter()
        self.collector.heartbeat()
        self.look()
        while self.broker.reports():
            self.collector.look()
            result = self.collector.collect(0.0)
            if result is None:
                break  # of an endpoint that was deleted, or whose turn comes later
            counts.update(ended=result.finished, dropped=result.dropped)
        return counts

    def look(self) -> None:
        """Let the collector look at the nodes of all endpoints."""
        with self.fed.database.read() as connection:
            ids = connection.execute(select(endpoints.c.id).where(endpoints.c.deleted.is_(None))).scalars()
            known = list(ids)
        self.collector.watch.look(self.broker.node_states.with_nodes(known))

    def sweep(self, after: float = 0.0) -> None:
        """Let ``after`` seconds pass, in which sweepers look at nodes and find nothing new, and sweep."""
        self.listen(after)
        self.sweeper.sweep()

    def listen(self, seconds: float = 0.0) -> None:
        """Let time pass in steps, after each of which the sweeper looks at the nodes."""
        if seconds > self.RECENT:
            self.clock.forward(seconds - self.RECENT)
            seconds = self.RECENT
        while seconds > self.STEP:
            self.clock.forward(self.STEP)
            self.sweeper.watch_nodes()
            seconds -= self.STEP
        self.clock.forward(max(0.0, seconds))

    def task(self, task_id: str) -> dict[str, Any]:
        """A task as its owner sees it, whoever that is."""
        with self.fed.database.read() as connection:
            owner = connection.execute(select(tasks.c.user_no).where(tasks.c.id == task_id)).scalar_one()
        return query.task(self.fed, User(owner, "", ""), task_id)

    def nodes(self, endpoint: FakeEndpoint) -> list[dict[str, Any]]:
        """The nodes of an endpoint as its owner sees them, by name."""
        found = endpoints_of.get(self.fed, self.me, endpoint.id)["nodes"]
        return sorted(found, key=lambda node: str(node["name"]))

    def state(self, answer: dict[str, Any]) -> str:
        """The one state that all tasks of a submission are in; several are joined by '+'."""
        return "+".join(sorted(self.states(answer)))

    def states(self, answer: dict[str, Any]) -> Counter[str]:
        """How many tasks of a submission are in which state."""
        with self.fed.database.read() as connection:
            found = connection.execute(
                select(tasks.c.state).where(tasks.c.id.in_(answer["task_ids"]))
            ).scalars()
            return Counter(map(str, found))

    def results(self, group_id: str, after: int = 0, limit: int = 100_000, user: User | None = None) -> Any:
        """One answer of the long poll."""
        return results.results_after(self.fed, user or self.me, group_id, after, limit)

    def check(self) -> None:
        """Fail unless the tables agree with each other."""
        with self.fed.database.read() as connection:
            invariants.check(connection)


@lru_cache(maxsize=1)
def _empty_ledger() -> bytes:
    """The file of a SQLite ledger with nothing in it: copying is quicker than making tables."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "ledger.sqlite"
        database = Database(f"sqlite:///{file}")
        database.create()
        database.close()
        return file.read_bytes()


def open_watched(home: Path, **settings: Any) -> tuple[Federation, MemoryBroker | WatchedBroker]:
    """Open a federation. ``settings``: of ``config.settings.Settings``; without ``broker_url``, in memory."""
    if not settings.get("database_url") and not (home / "ledger.sqlite").exists():
        (home / "ledger.sqlite").write_bytes(_empty_ledger())
    url = settings.pop("broker_url", None)
    real = open_federation(Settings(home=home, broker_url=url or "redis://broker.example:6379/0", **settings))
    real.broker.close()
    broker = WatchedBroker(url) if url else MemoryBroker()
    return replace(real, broker=broker, clock=lambda: time.time()), broker


@contextmanager
def open_ledger(home: Path, **settings: Any) -> Iterator[Ledger]:
    """A ledger on a new database, guarded by triggers and checked at the end.

    ``settings``: see ``open_watched``. The Redis server of ``broker_url`` must be empty.
    """
    with movable_clock() as clock:
        fed, broker = open_watched(home, **settings)
        try:
            invariants.guard(fed.database)
            ledger = Ledger(fed, broker, clock)
            yield ledger
            ledger.check()
        finally:
            fed.close()
