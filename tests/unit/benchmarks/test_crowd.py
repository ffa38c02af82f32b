"""The ledger of a crowd, and what its load measures."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from benchmarks.scale import crowd, crowd_load
from benchmarks.scale.crowd_ledger import Account, Sizes, fill
from benchmarks.scale.crowd_load import POLL, RESULTS, SUBMIT, Times, poll, submit
from federation.ledger import query
from federation.registry import endpoints, users
from tests.support.ledger import open_ledger
from umbel.serialize import dump_result, load_call


def test_a_filled_ledger_looks_as_if_its_users_had_worked(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as ledger:
        with closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as connection:
            names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
            for (name,) in names:
                connection.execute(f"DROP TRIGGER {name}")
        lab = ledger.endpoint()
        node = lab.node()
        ledger.submit(lab, 3)
        ledger.collect()
        while node.take():
            node.finish()
            ledger.collect()
        accounts = fill(tmp_path / "ledger.sqlite", Sizes(users=4, endpoints=10, finished=42, waiting=22))
        assert len(accounts) == 4
        total = 0
        for account in accounts:
            user = users.authenticate(ledger.fed, account.token)
            group = query.group(ledger.fed, user, account.group_id)
            assert group["states"] == {"queued": group["total"]}
            assert endpoints.get(ledger.fed, user, account.endpoint_id)["id"] == account.endpoint_id
            total += int(group["total"])
        assert total == 22
        with closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as connection:
            states = dict(connection.execute("SELECT state, count(*) FROM tasks GROUP BY state"))
            (count,) = connection.execute("SELECT count(*) FROM endpoints").fetchone()
        assert states == {"succeeded": 45, "queued": 22} and count == 11
        # at the end it is checked that all tables agree


class Service:
    """A client without a service; ``fails``: every request raises."""

    fails = False

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def submit(self, function: str, endpoint: str, payloads: list[bytes], **_: Any) -> None:
        if self.fails:
            raise OSError("no service")
        self.rows = [{"result": dump_result(load_call(payload)[0][0])} for payload in payloads]

    def group_results(self, group: str, after: int, wait: float) -> dict[str, Any]:
        if self.fails:
            raise OSError("no service")
        return {"results": self.rows[after:], "cursor": len(self.rows)}


def test_errors_are_counted_and_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crowd_load, "PAUSE", 0.001)
    until = crowd_load.time.monotonic() + 0.05
    client: Any = Service()
    times = Times()
    submit(client, "f", "e", until, times)
    assert not times.errors and len(times.routes[SUBMIT]) == len(times.routes[RESULTS]) > 0
    client.fails, client.rows = True, []
    failed = Times()
    poll(client, "g", crowd_load.time.monotonic() + 0.01, failed)
    assert failed.errors and not failed.routes[POLL]
    times.add({"routes": failed.routes, "errors": failed.errors})
    assert times.errors == failed.errors
    assert crowd._count(times) == sum(map(len, times.routes.values())) + len(failed.errors)


def test_a_result_of_a_task_that_waits_is_an_error() -> None:
    client: Any = Service()
    client.submit("f", "e", [])
    client.rows = [{"result": b""}]
    times = Times()
    poll(client, "g", crowd_load.time.monotonic() + 0.001, times)
    assert "a task that waits has a result" in times.errors[0]


def test_the_probe_requests_what_its_user_has() -> None:
    class Recorder:
        def __init__(self) -> None:
            self.called: list[str] = []

        def __getattr__(self, name: str) -> Any:
            def call(*arguments: Any, **_: Any) -> Any:
                self.called.append(name)
                return [{"id": "t"}]

            return call

    client: Any = Recorder()
    for request in crowd._requests(client, Account("token", "e", "g")).values():
        request()
    assert {"tasks", "get_task", "get_log", "endpoints", "health", "group_results"} <= set(client.called)
