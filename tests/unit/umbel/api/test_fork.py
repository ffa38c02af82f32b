"""A client that was used before a fork: parent and child never share a connection, nor a lock."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest

from tests.support.forks import forked, held_elsewhere, run_in_child
from tests.unit.umbel.http_server import Answer, Asked, ScriptedServer
from umbel import Client

CHILDREN, REQUESTS = 4, 60


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    """Answers with the task id that was asked for, and a body that takes two reads."""

    def script(asked: Asked) -> Answer:
        task_id = asked.path.split("/")[3]
        return Answer(200, {"id": task_id, "state": "queued", "filler": "x" * 20_000})

    server = ScriptedServer(script)
    yield server
    server.close()


def ask(client: Client, name: str) -> int:
    """Send requests; return how many answers were those of another request."""
    wrong = 0
    for number in range(REQUESTS):
        try:
            wrong += client.get_task(f"{name}-{number}", 10.0)["id"] != f"{name}-{number}"
        except Exception:
            wrong += 1
    return wrong


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_client_used_before_a_fork_gives_each_process_its_own_answers(server: ScriptedServer) -> None:
    with Client(server.account.url, "umb_secret") as client:
        assert ask(client, "before") == 0
        before = server.connections
        pids = [forked(lambda name=name: ask(client, f"child{name}")) for name in range(CHILDREN)]
        wrong = ask(client, "parent")
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        assert (wrong, codes) == (0, [0] * CHILDREN)
        # the parent keeps its connection, each child has one of its own
        assert server.connections == before + CHILDREN
        assert ask(client, "after") == 0 and server.connections == before + CHILDREN


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_locks_that_another_thread_held_during_the_fork_are_free_in_the_child(
    server: ScriptedServer,
) -> None:
    with Client(server.account.url, "umb_secret") as client:
        ask(client, "before")
        locks = [client._lock, client.transport._connections._lock]  # type: ignore[attr-defined]

        def work() -> int:
            client.forget_function("f")
            client.get_task("child", 5.0)
            client.close()
            return 0

        with held_elsewhere(locks):
            assert run_in_child(work) == 0
        assert json.dumps(client.get_task("parent", 5.0)["id"]) == '"parent"'
