"""Calls that PostgreSQL accepts while their endpoint's lock is taken run, whichever process is killed."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from federation.db.engine import Database
from tests.support import invariants, postgres
from tests.support.embedded import Embedded, processes_of
from tests.support.postgres import Server, running_server
from tests.support.wait import wait_until
from umbel import Client
from umbel.protocol.errors import TooMany
from umbel.serialize import dump_call

#: Unfinished tasks that an endpoint may have here.
LIMIT = 60


class Ledger:
    """The service's database, seen from outside of the service."""

    def __init__(self, server: Server):
        self.server = server
        self.name = server.new_database()
        self.url = server.url(self.name)

    def value(self, query: str) -> Any:
        """Return the first value of a query."""
        with closing(self.server.connect(self.name)) as connection:
            row = connection.execute(query.encode()).fetchone()
        return row[0] if row else None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Have the lock of all endpoints, as a transaction that takes long."""
        with closing(self.server.connect(self.name)) as connection, connection.transaction():
            connection.execute("SELECT no FROM endpoints ORDER BY no FOR NO KEY UPDATE")
            yield

    def uncounted(self) -> int:
        """Return how many calls are accepted and not counted."""
        return int(self.value("SELECT coalesce(sum(calls), 0) FROM arrivals"))

    def dump(self, folder: Path) -> None:
        """Write a backup into a folder."""
        self._run("pg_dump", "-Fc", "-d", self.name, "-f", str(folder / "backup"))

    def restore(self, folder: Path) -> None:
        """Replace the database by the backup in a folder."""
        self._run("pg_restore", "--clean", "-d", self.name, str(folder / "backup"))

    def _run(self, program: str, *words: str) -> None:
        path = postgres.require_binaries() / program
        command = [str(path), "-h", str(self.server.folder), "-U", self.server.account, *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr

    def check(self) -> None:
        """Check that the tables agree with each other."""
        with closing(Database(self.url)) as database, database.read() as connection:
            invariants.check(connection)


class Service:
    """A service and its ledger."""

    def __init__(self, umbel: Embedded, ledger: Ledger):
        self.umbel, self.ledger = umbel, ledger
        self.client = umbel.client()


@contextmanager
def _service(folder: Path, server: Server) -> Iterator[Service]:
    ledger = Ledger(server)
    environ = {"UMBEL_DATABASE_URL": ledger.url, "UMBEL_MAX_ENDPOINT_CALLS": str(LIMIT)}
    with Embedded(folder, workers=2, environ=environ) as umbel:
        yield Service(umbel, ledger)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_server() as server:
        yield server


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, server: Server) -> Iterator[Service]:
    with _service(tmp_path_factory.mktemp("uncounted"), server) as service:
        yield service


@pytest.fixture
def own(tmp_path: Path, server: Server) -> Iterator[Service]:
    """A service that is stopped and started."""
    with _service(tmp_path, server) as service:
        yield service


def _note(path: str, number: int) -> int:
    import os

    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, b"%d\n" % number)
    os.close(file)
    return number


def _accept(client: Client, path: Path, count: int = 10) -> list[str]:
    """Submit single calls and a few in one group."""
    function_id = client.register_function(_note)
    return [
        client.run(str(path), number, function_id=function_id, endpoint_id="local") for number in range(count)
    ]


def _all_ran_once(ledger: Ledger, path: Path, count: int = 10) -> None:
    unfinished = "SELECT count(*) FROM tasks WHERE finished IS NULL"
    wait_until(lambda: ledger.value(unfinished) == 0, 20, what="the end of all calls")
    assert sorted(map(int, path.read_text().split())) == list(range(count))
    ledger.check()


@pytest.mark.parametrize("component", ["web", "collect", "sweep"])
def test_a_process_is_killed_before_calls_are_counted(
    service: Service, tmp_path: Path, component: str
) -> None:
    umbel, ledger, client = service.umbel, service.ledger, service.client
    with ledger.locked():
        ids = _accept(client, tmp_path / "starts")
        assert ledger.uncounted() == len(ids)
        umbel.kill(component)
        assert ledger.uncounted() == len(ids)
    _all_ran_once(ledger, tmp_path / "starts")
    assert {client.get_task(id)["state"] for id in ids} == {"succeeded"}


@pytest.mark.parametrize("gently", [True, False])
def test_everything_ends_before_calls_are_counted(own: Service, tmp_path: Path, gently: bool) -> None:
    umbel, ledger, client = own.umbel, own.ledger, own.client
    with ledger.locked():
        ids = _accept(client, tmp_path / "starts")
        assert ledger.uncounted() == len(ids)
        if gently:
            umbel.stop()
        else:
            for process in processes_of(umbel.home):
                process.send_signal(signal.SIGKILL)
            assert umbel.service is not None
            umbel.service.wait()
        assert ledger.uncounted() == len(ids)
    umbel.start()
    _all_ran_once(ledger, tmp_path / "starts")


def test_calls_that_are_not_counted_yet_count(service: Service, tmp_path: Path) -> None:
    """For limits and their group; they can be cancelled."""
    ledger, client = service.ledger, service.client
    function_id = client.register_function(_note)
    call = dump_call((str(tmp_path / "starts"), 0), {})
    group = client.submit(function_id, "local", [call])["group_id"]
    wait_until(lambda: client.get_group(group)["finished"], 20, what="the group's first call")
    accepted = []

    def fill(_: int) -> None:
        while True:
            try:
                accepted.append(client.submit(function_id, "local", [call], group_id=group, patience=0.0))
            except TooMany as error:
                assert error.code == "QUEUE_FULL"
                return

    with ThreadPoolExecutor(8) as threads:
        with ledger.locked():
            list(threads.map(fill, range(8)))
            assert len(accepted) == ledger.uncounted() == LIMIT
            assert client.group_results(group)["live"] == LIMIT
            assert not client.get_group(group)["finished"]
            cancelled = threads.submit(client.cancel_group, group)
        count = cancelled.result(30)
    wait_until(lambda: client.get_group(group)["finished"], 20, what="the end of the group")
    states = client.get_group(group)["states"]
    assert states["cancelled"] == count and states["succeeded"] == LIMIT + 1 - count
    assert client.group_results(group)["live"] == 0
    ledger.check()


def test_a_backup_with_calls_that_are_not_counted(own: Service, tmp_path: Path) -> None:
    """A restored backup runs them, though their results are in the lost state."""
    umbel, ledger, client = own.umbel, own.ledger, own.client
    with ledger.locked():
        ids = _accept(client, tmp_path / "starts")
        ledger.dump(tmp_path)
    _all_ran_once(ledger, tmp_path / "starts")
    umbel.stop()
    ledger.restore(tmp_path)
    assert ledger.uncounted() == len(ids)
    umbel.start()
    (tmp_path / "starts").unlink()
    _all_ran_once(ledger, tmp_path / "starts")
