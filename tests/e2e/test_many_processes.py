"""A service that has grown: PostgreSQL, two API servers, two collectors, two sweepers, two endpoints.

Clients talk to different servers, work for the same endpoints, and see nothing of a server or collector that
is killed beside theirs.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import Future, wait
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support.embedded import Embedded, Service, environment, free_port
from tests.support.postgres import Server, running_server
from tests.support.wait import wait_until
from umbel import Client, Executor

TASKS = 1500
DEADLINE = 120.0

pytestmark = pytest.mark.timeout(240)


class Second:
    """A second API server, collector and sweeper beside those of ``up``, on the same ledger and broker."""

    def __init__(self, umbel: Embedded, folder: Path, environ: dict[str, str]):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        home = ["--home", str(umbel.home)]
        commands = {
            "web": ["webapp.serve", *home, "--port", str(self.port)],
            "collect": ["federation", "collect", *home],
            "sweep": ["federation", "sweep", *home],
        }
        environ = environment(UMBEL_HOME=str(umbel.home), **environ)
        self.services = {
            name: Service([sys.executable, "-m", *words], environ, folder / f"second-{name}.log")
            for name, words in commands.items()
        }

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except urllib.error.URLError:
            return False

    def stop(self) -> None:
        for service in self.services.values():
            if service.process.poll() is None:
                service.process.terminate()
        for service in self.services.values():
            service.wait()


@contextmanager
def _grown(folder: Path, server: Server) -> Iterator[tuple[Embedded, Second]]:
    environ = {"UMBEL_DATABASE_URL": server.url(server.new_database())}
    with ExitStack() as stack:
        umbel = stack.enter_context(Embedded(folder, workers=1, environ=environ))
        umbel.endpoint("second", slots=1)
        second = Second(umbel, folder, environ)
        stack.callback(second.stop)
        wait_until(second.answers, 30, what="the second API server")
        yield umbel, second


@pytest.fixture
def grown(tmp_path: Path) -> Iterator[tuple[Embedded, Second]]:
    with running_server() as server, _grown(tmp_path, server) as both:
        yield both


def _square(number: int) -> int:
    import time

    time.sleep(0.002)
    return number * number


def test_two_of_everything_share_the_work_and_survive_each_other(grown: tuple[Embedded, Second]) -> None:
    umbel, second = grown
    token = umbel.account()["token"]
    futures: dict[tuple[str, str], list[Future[int]]] = {}
    with ExitStack() as stack:
        for url in (umbel.url, second.url):
            for endpoint in ("local", "second"):
                client = stack.enter_context(Client(url, token))
                futures[url, endpoint] = []
                executor = stack.enter_context(Executor(endpoint, client=client))
                threading.Thread(target=_submit, args=(executor, futures[url, endpoint])).start()
        wait_until(lambda: len(_all(futures)) == 4 * TASKS, 60, what="all submissions")
        every = _all(futures)
        wait_until(lambda: sum(map(Future.done, every)) > TASKS // 2, 60, what="an eighth of the results")
        second.services["collect"].process.kill()
        umbel.kill("web")
        umbel.kill("collect")
        os.kill(second.services["sweep"].process.pid, signal.SIGKILL)
        assert not all(map(Future.done, every)), "they were killed too late"
        _, late = wait(every, timeout=DEADLINE)
        assert not late, f"{len(late)} futures have not ended"
        for results in futures.values():
            assert [future.result() for future in results] == [n * n for n in range(TASKS)]


def _submit(executor: Executor, futures: list[Future[int]]) -> None:
    for number in range(TASKS):
        futures.append(executor.submit(_square, number))


def _all(futures: dict[tuple[str, str], list[Future[int]]]) -> list[Future[int]]:
    return [future for some in list(futures.values()) for future in list(some)]
