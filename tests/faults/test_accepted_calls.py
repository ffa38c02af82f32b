"""What the service has accepted is run, whatever happens to clients, the API, a node or the broker."""

from __future__ import annotations

import itertools
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from pathlib import Path

import psutil
import pytest
import redis

from tests.support.chaos_proxy import ChaosProxy
from tests.support.embedded import ROOT, Embedded, environment
from tests.support.wait import wait_until
from umbel.protocol.errors import ServiceError

#: Seconds without a heartbeat after which a node is lost here.
LOST_AFTER = "8"

PROGRAM = """
import sys
from umbel import Client

def double(number):
    import time
    time.sleep(0.5)
    return 2 * number

with Client() as client:
    function_id = client.register_function(double)
    for number in range(8):
        print(client.run(number, function_id=function_id, endpoint_id="local"), flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def umbel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    folder = tmp_path_factory.mktemp("accepted")
    with Embedded(folder, workers=2, environ={"UMBEL_NODE_LOST_AFTER": LOST_AFTER}) as embedded:
        yield embedded


def _note(path: str, number: int, seconds: float = 0.0) -> int:
    import os
    import time

    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, b"%d\n" % number)
    os.close(file)
    time.sleep(seconds)
    return number


def test_the_api_is_killed_during_200_submissions(umbel: Embedded, tmp_path: Path) -> None:
    """Each submission is repeated with its key until it is answered, and has one task, which runs once.

    Some have been accepted when the API is killed, and their answers have not arrived.
    """
    path, answered = tmp_path / "starts", itertools.count()
    with ChaosProxy(("127.0.0.1", umbel.port)) as link, ThreadPoolExecutor(20) as threads:
        client = umbel.client(url=f"http://127.0.0.1:{link.port}")
        function_id = client.register_function(_note)
        before, count = _stored(umbel), [0]

        def submit(number: int) -> str:
            task_id = client.run(str(path), number, function_id=function_id, endpoint_id="local")
            count[0] = next(answered) + 1
            return task_id

        submissions = [threads.submit(submit, number) for number in range(200)]
        for enough in (20, 80):
            wait_until(lambda: count[0] >= enough, 30, what="some answers")
            link.down.hole = True
            wait_until(
                lambda: _stored(umbel) - before >= count[0] + 5, 20, what="submissions without answers"
            )
            umbel.kill("web")
            link.cut()
            link.down.hole = False
        assert not all(submission.done() for submission in submissions), "it was killed too late"
        _, late = wait(submissions, 60)
        assert not late
        task_ids = [submission.result() for submission in submissions]
    client = umbel.client()
    assert len(set(task_ids)) == 200 and _stored(umbel) - before == 200
    assert [client.get_result(task_id, timeout=30) for task_id in task_ids] == list(range(200))
    assert sorted(map(int, path.read_text().split())) == list(range(200))


def _stored(umbel: Embedded) -> int:
    """Number of tasks in the ledger."""
    with closing(sqlite3.connect(umbel.home / "ledger.sqlite", timeout=20)) as ledger:
        return int(ledger.execute("SELECT count(*) FROM tasks").fetchone()[0])


def _change_tokens(umbel: Embedded, change: str) -> None:
    with closing(sqlite3.connect(umbel.home / "ledger.sqlite", timeout=20)) as ledger, ledger:
        ledger.execute(f"UPDATE tokens SET {change}")


def test_results_of_a_client_that_is_killed_are_read_by_another(umbel: Embedded) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        env=environment(UMBEL_HOME=str(umbel.home)),
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout is not None
        task_ids = [program.stdout.readline().strip() for _ in range(8)]
        program.kill()
    client = umbel.client()
    assert [client.get_result(task_id, timeout=30) for task_id in task_ids] == [2 * n for n in range(8)]


def test_a_node_that_never_comes_back(umbel: Embedded, tmp_path: Path) -> None:
    """The calls of a node that is killed with its host are run by another node of the endpoint."""
    first = umbel.endpoint("lab", slots=2)
    path = tmp_path / "starts"
    with umbel.executor("lab") as executor:
        futures = [executor.submit(_note, str(path), number, 0.2) for number in range(40)]
        wait_until(lambda: any(future.done() for future in futures), 30, what="a result")
        family = [psutil.Process(first.pid), *psutil.Process(first.pid).children(recursive=True)]
        first.kill()
        for process in family:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        # another host: another node with a spool of its own
        home = umbel.home.parent / "other-host"
        started = _copy(first.home, home)
        try:
            _, late = wait(futures, 60)
            assert not late, f"{len(late)} futures have not ended"
            assert [future.result() for future in futures] == list(range(40))
        finally:
            started.terminate()
            started.wait(15)
    starts = path.read_text().split()
    assert len(starts) <= 40 + 2, "only calls that ran are started again"


def _copy(home: Path, other: Path) -> subprocess.Popen[bytes]:
    shutil.copytree(home, other, ignore=shutil.ignore_patterns("spool", "*.lock", "*.pid"))
    return subprocess.Popen(
        [sys.executable, "-m", "endpoint_worker", "start", "lab"],
        env=environment(UMBEL_HOME=str(other)),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def test_a_broker_of_the_service_that_is_full_for_a_while(umbel: Embedded) -> None:
    """Calls are accepted all the same, and run when the broker has room."""
    with (
        redis.Redis.from_url((umbel.home / "redis" / "service.url").read_text().strip()) as broker,
        umbel.executor() as executor,
    ):
        assert executor.submit(pow, 2, 3).result(30) == 8
        parts = {name: umbel.pid(name) for name in ("web", "collect", "sweep", "redis")}
        broker.config_set("maxmemory-policy", "noeviction")
        broker.config_set("maxmemory", 1)
        try:
            futures = [executor.submit(pow, 2, number) for number in range(100)]
            executor.flush(30)
            assert not wait(futures, 3).done
        finally:
            broker.config_set("maxmemory", 0)
        assert not wait(futures, 60).not_done
        assert [future.result() for future in futures] == [2**number for number in range(100)]
        assert {name: umbel.pid(name) for name in parts} == parts


def test_everything_of_10_mib_travels_and_more_is_rejected(umbel: Embedded) -> None:
    size = 10 * 1024 * 1024 - 1000
    data = os.urandom(size)
    with umbel.executor() as executor:
        assert executor.submit(bytes, data).result(60) == data
        error = executor.submit(len, data + bytes(os.urandom(2000))).exception(30)
        assert getattr(error, "code", None) == "PAYLOAD_TOO_LARGE"
        error = executor.submit(os.urandom, size + 2000).exception(60)
        assert getattr(error, "code", None) == "RESULT_TOO_LARGE"


def test_a_token_is_revoked_while_a_call_runs(umbel: Embedded) -> None:
    """New requests are rejected at once; the call that runs is not disturbed and ends."""
    client = umbel.client()
    function_id = client.register_function(time.sleep)
    task_id = client.run(2.0, function_id=function_id, endpoint_id="local")
    wait_until(lambda: client.get_task(task_id)["state"] == "running", 20, what="the call to run")
    _change_tokens(umbel, "revoked = 1.0 WHERE revoked IS NULL")
    try:
        with pytest.raises(ServiceError) as caught:
            client.get_task(task_id)
        assert caught.value.code == "UNAUTHORIZED"
    finally:
        _change_tokens(umbel, "revoked = NULL WHERE revoked = 1.0")
    assert umbel.client().get_result(task_id, timeout=30) is None
    assert umbel.client().get_task(task_id)["attempt"] == 1
