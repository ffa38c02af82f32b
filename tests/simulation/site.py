"""A service whose ledger is as new at the start of each schedule, in a millisecond."""

from __future__ import annotations

import random
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from sqlalchemy import Connection, event

from federation.broker.client import Broker, Outgoing
from federation.config.settings import Settings
from federation.context import Federation
from federation.db.engine import Database
from federation.db.function_cache import FunctionCache
from federation.ledger.totals import TotalsCheck
from federation.registry import endpoints, functions, users
from federation.registry.users import User
from federation.services import rollback
from federation.services.future_times import correct_future_times
from federation.services.pace import Pace
from federation.services.sweeper import Sweeper
from tests.simulation.clock import Clock, deterministic
from tests.simulation.store import Store
from tests.support import invariants
from umbel.protocol import names
from umbel.protocol.envelope import Signer

#: Called where another process may run or this one may be killed: at the bounds of a transaction.
Hook = Callable[[], None]

#: A node is lost after a shorter time than by default: fewer steps until something happens.
LOST_AFTER, RESEND_AFTER = 20.0, 10.0
_SHARED_MEMORY = Path("/dev/shm")


class SimDatabase(Database):
    """A database that calls ``hook`` between transactions."""

    hook: Hook = staticmethod(lambda: None)
    _open = False

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """As the real one."""
        with self._transaction(super().write) as connection:
            yield connection
        self.hook()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """As the real one."""
        with self._transaction(super().read) as connection:
            yield connection

    @contextmanager
    def _transaction(self, begin: Any) -> Iterator[Connection]:
        if not self._open:
            self.hook()
        self._open, before = True, self._open
        try:
            with begin() as connection:
                yield connection
        finally:
            self._open = before


class SimBroker(Broker):
    """The real client on a simulated store.

    ``commands``: cancellations on their way to nodes. ``fate``: called for each bundle that is sent; returns
    None, "lost" (the broker ends before a worker takes it) or the seconds by which the bundle is late.
    """

    def __init__(self, store: Store):
        with mock.patch("redis.Redis.from_url", lambda *_, **__: store):
            super().__init__("redis://broker.example:6379/0")
        self.store = store
        self.commands: list[tuple[str, list[str]]] = []
        self.fate: Callable[[Outgoing], str | float | None] = lambda outgoing: None
        self._late: list[tuple[float, Outgoing]] = []

    def send(self, outgoing: Sequence[Outgoing]) -> None:
        """As the real one, for bundles that have no other fate."""
        in_time = []
        for item in outgoing:
            fate = self.fate(item)
            if isinstance(fate, float):
                self._late.append((self.store.clock() + fate, item))
            elif fate is None:
                in_time.append(item)
        super().send(in_time)

    def deliver(self) -> None:
        """Send what was late until now."""
        due = [item for at, item in self._late if at <= self.store.clock()]
        self._late = [each for each in self._late if each[1] not in due]
        super().send(due)

    def control(self, endpoint_id: str, command: str, arguments: Any, workers: Any = None) -> None:
        """Send a remote control command."""
        self.store.ping()
        self.commands.append((endpoint_id, list(arguments["task_ids"])))


class SimSweeper(Sweeper):
    """The real sweeper; what has no part in a simulation, and takes a third of its time, runs rarely."""

    def __init__(self, fed: Federation):
        super().__init__(fed, fed.clock)
        self._sweeps = 0
        self.quota.limit_endpoints = _nothing  # type: ignore[method-assign]
        # with the simulated time, of which these steps take none
        self._times = Pace(lambda: correct_future_times(fed), fed.clock)
        self._totals = Pace(TotalsCheck(fed).check_next, fed.clock)
        self._pruning = Pace(self._prune, fed.clock)

    def sweep(self) -> None:
        """As the real one."""
        self._sweeps += 1
        super().sweep()

    def check_ledger(self) -> None:
        """A site that starts over is not a ledger that was rolled back."""

    def fail_oversized(self) -> None:
        """As the real one."""
        if self._sweeps % 8 == 0:
            super().fail_oversized()

    def delete_old(self) -> None:
        """As the real one."""
        if self._sweeps % 8 == 0:
            super().delete_old()

    def prune(self) -> None:
        """As the real one."""
        if self._sweeps % 8 == 0:
            super().prune()

    def expire(self) -> None:
        """As the real one."""
        if self._sweeps % 8 == 0:
            super().expire()


@dataclass(frozen=True)
class Place:
    """A registered endpoint and the key of its reports."""

    id: str
    signer: Signer


class Site:
    """A service with two users, a function of each, and two endpoints of the first one."""

    def __init__(self, folder: Path):
        self.clock = Clock()
        # ids and keys are part of the template: the same in every process
        self._chance = random.Random(0)
        with deterministic(self.clock, self._chance):
            self._set_up(folder)

    def _set_up(self, folder: Path) -> None:
        self.store = Store(self.clock)
        self.database = SimDatabase(f"sqlite:///{folder / 'ledger.sqlite'}")
        event.listen(self.database.engine, "connect", _quick)
        self.database.create()
        signer = Signer(self._chance.randbytes(32))
        settings = Settings(
            home=folder, broker_url="redis://broker.example", node_lost_after=LOST_AFTER,
            resend_after=RESEND_AFTER, bundle_seconds=0.01, window=2,
        )  # fmt: skip
        self.broker = SimBroker(self.store)
        self.fed = Federation(
            settings, self.database, self.broker, signer, FunctionCache(self.database), self.clock
        )
        self.users: list[User] = [users.ensure_user(self.fed, name) for name in ("ada", "bob")]
        self.places = [self._endpoint(self.users[0], "e0"), self._endpoint(self.users[0], "e1")]
        made = functions.register(self.fed, self.users[0], name="dock", body=b"body")
        self.function_id = str(made["id"])
        (number,) = self.rows("SELECT no FROM functions")[0]
        self.fed.functions.get(number)
        invariants.guard(self.database)
        self._template = sqlite3.connect(":memory:")
        self._driver().backup(self._template)
        self._seen = self.clock.now

    def _endpoint(self, user: User, name: str) -> Place:
        signer = Signer(self._chance.randbytes(32))
        made = endpoints.register(self.fed, user, name=name, public_key=signer.public_key)
        return Place(made["id"], signer)

    def _driver(self) -> Any:
        with self.database.engine.connect() as connection:
            return connection.connection.driver_connection

    def reset(self) -> None:
        """Start over with the ledger of the template, an empty store, and the first moment."""
        self.database.hook = lambda: None
        (self.fed.settings.home / rollback.MARK_FILE).unlink(missing_ok=True)
        self._template.backup(self._driver())
        self.clock.now = self._seen
        self.store = Store(self.clock)
        self.broker = SimBroker(self.store)
        object.__setattr__(self.fed, "broker", self.broker)

    def push_report(self, place: Place, report: bytes) -> int:
        """Push a report as a worker does, and announce it; return its position in the endpoint's list.

        Raises redis.ConnectionError.
        """
        pipe = self.store.pipeline()
        pipe.lpush(names.reports_key(place.id), report)
        pipe.get(names.applied_key(place.id))
        pipe.publish(names.news_channel(place.id), b"")
        waiting, applied, _ = pipe.execute()
        return int(waiting) + int(applied or 0)

    def rows(self, query: str) -> list[Any]:
        """Read outside the simulation."""
        return list(self._driver().execute(query))

    def close(self) -> None:
        """Close the database."""
        self._template.close()
        self.database.close()


def _nothing() -> None:
    """The memory of the store is not measured."""


def _quick(driver: Any, _record: Any) -> None:
    for pragma in ("journal_mode = MEMORY", "synchronous = OFF", "locking_mode = EXCLUSIVE"):
        driver.execute(f"PRAGMA {pragma}").fetchall()


@contextmanager
def opened() -> Iterator[Site]:
    """A service in a temporary directory, in memory if the machine has such a directory."""
    parent = _SHARED_MEMORY if _SHARED_MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="umbel-simulation-", dir=parent) as folder:
        site = Site(Path(folder))
        try:
            yield site
        finally:
            site.close()
