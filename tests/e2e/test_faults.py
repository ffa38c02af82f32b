"""Every part of a federation is killed while 2,000 tasks are in flight; no task is lost and no future hangs.

Nothing is repaired by hand: the federation heals itself, and the client that submitted the work notices
nothing.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
import redis

from tests.support.embedded import Embedded, gone
from tests.support.wait import wait_until

TASKS = 2000
#: Seconds for all of them, with everything that must be noticed and sent again.
DEADLINE = 110.0

pytestmark = pytest.mark.timeout(200)


@pytest.fixture(scope="module")
def umbel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    with Embedded(tmp_path_factory.mktemp("faults"), workers=2) as embedded:
        yield embedded


def _work(number: int) -> tuple[int, int]:
    import os
    import time

    time.sleep(0.004)
    return number, os.getpid()


def _in_flight_then(umbel: Embedded, strike: Callable[[], None]) -> list[tuple[int, int]]:
    """Submit the tasks, strike when some have finished and most have not, and see each of them end well."""
    with umbel.executor() as executor:
        futures = [executor.submit(_work, number) for number in range(TASKS)]
        wait_until(lambda: sum(map(Future.done, futures)) >= TASKS // 10, 60, what="a tenth of the tasks")
        strike()
        assert not all(future.done() for future in futures), "it struck too late"
        _, late = wait(futures, timeout=DEADLINE)
        assert not late, f"{len(late)} futures have not ended: {_states(umbel, executor.group_id)}"
        results = [future.result() for future in futures]
        _check_group(umbel, executor.group_id)
    assert [number for number, _ in results] == list(range(TASKS))
    return results


def _states(umbel: Embedded, group_id: str) -> object:
    return umbel.client().get_group(group_id)


def _check_group(umbel: Embedded, group_id: str) -> None:
    """Every accepted task has exactly one terminal state: one completion number each, without a gap."""
    client = umbel.client()
    group = client.get_group(group_id)
    assert group["total"] == TASKS and group["finished"]
    assert {state: n for state, n in group["states"].items() if n} == {"succeeded": TASKS}
    seen: dict[str, int] = {}
    after = 0
    while page := client.group_results(group_id, after)["results"]:
        for item in page:
            assert item["task_id"] not in seen
            seen[item["task_id"]] = item["completion"]
        after = max(item["completion"] for item in page)
    assert sorted(seen.values()) == list(range(1, TASKS + 1))


@pytest.mark.parametrize("component", ["web", "collect", "sweep", "endpoint"])
def test_a_part_is_killed(umbel: Embedded, component: str) -> None:
    _in_flight_then(umbel, lambda: umbel.kill(component))
    lines = (umbel.home / "logs" / "up.log").read_text().splitlines()
    assert any(f" {component} " in line and "SIGKILL" in line for line in lines)


def test_the_broker_is_killed_and_its_data_with_it(umbel: Embedded) -> None:
    url = (umbel.home / "redis" / "service.url").read_text().strip()

    def strike() -> None:
        with redis.Redis.from_url(url) as broker:
            assert broker.dbsize() > 0
            umbel.kill("redis")
            wait_until(lambda: _answers(url), 10, what="the new broker")

    _in_flight_then(umbel, strike)


def _answers(url: str) -> bool:
    try:
        with redis.Redis.from_url(url) as broker:
            return bool(broker.ping())
    except redis.ConnectionError:
        return False


def test_a_broker_that_keeps_running_loses_its_data(umbel: Embedded) -> None:
    def strike() -> None:
        with redis.Redis.from_url((umbel.home / "redis" / "service.url").read_text().strip()) as broker:
            broker.flushall()

    _in_flight_then(umbel, strike)


def test_a_runner_is_killed_in_the_middle_of_a_call(umbel: Embedded) -> None:
    runners = _runners(umbel)

    def strike() -> None:
        for pid in runners:
            os.kill(pid, signal.SIGKILL)

    results = _in_flight_then(umbel, strike)
    used = {pid for _, pid in results}
    # the first ones were at work, and others have taken their places
    assert used & runners and used - runners


def _runners(umbel: Embedded) -> set[int]:
    """Process ids of the runners, all of which have been at work."""

    def two() -> set[int]:
        with umbel.executor() as executor:
            return {pid for _, pid in executor.map(_work, range(100), timeout=60)}

    return wait_until(lambda: len(found := two()) == umbel.workers and found, 30, what="work on all runners")


def test_a_call_whose_runner_is_killed_runs_again(
    umbel: Embedded, tmp_path_factory: pytest.TempPathFactory
) -> None:
    note = tmp_path_factory.mktemp("note") / "pids"
    with umbel.executor() as executor:
        future = executor.submit(_first_time_slow, str(note))
        first = int(wait_until(lambda: note.exists() and note.read_text().strip(), 30, what="the call"))
        os.kill(first, signal.SIGKILL)
        second = future.result(timeout=60)
        assert second != first
        [task] = umbel.client().tasks(group_id=executor.group_id)
        assert (task["state"], task["attempt"]) == ("succeeded", 2)


def _first_time_slow(note: str) -> int:
    import os
    import time

    with open(note, "a") as file:
        file.write(f"{os.getpid()}\n")
    with open(note) as file:
        if len(file.readlines()) == 1:
            time.sleep(60)
    return os.getpid()


def test_a_call_that_kills_its_runner_each_time_fails_in_the_end(umbel: Embedded) -> None:
    with umbel.executor() as executor:
        future: Future[None] = executor.submit(os._exit, 7)
        harmless = [executor.submit(pow, 2, n) for n in range(50)]
        error = future.exception(timeout=90)
        assert getattr(error, "code", None) == "WORKER_LOST"
        assert [item.result(timeout=60) for item in harmless] == [2**n for n in range(50)]


def test_everything_is_killed_at_once(umbel: Embedded) -> None:
    def strike() -> None:
        for pid in umbel.pids().values():
            os.kill(pid, signal.SIGKILL)

    _in_flight_then(umbel, strike)


def test_after_all_that_it_stops_in_time(umbel: Embedded) -> None:
    client = umbel.client()
    endless = client.run(3600, function_id=client.register_function(time.sleep), endpoint_id="local")
    wait_until(
        lambda: client.get_task(endless)["state"] == "running", 30, what="the call without an end to run"
    )
    family = psutil.Process(umbel.status()["pid"]).children(recursive=True)
    began = time.monotonic()
    umbel.stop()
    assert time.monotonic() - began < 10
    assert all(gone(process) for process in family)


def test_the_whole_of_it_is_killed_and_started_again(tmp_path: Path) -> None:
    with Embedded(tmp_path, workers=2) as own:

        def strike() -> None:
            assert own.service is not None
            own.service.process.kill()
            own.service.wait()
            own.start()

        _in_flight_then(own, strike)


def test_no_secret_was_logged(umbel: Embedded) -> None:
    secrets = [
        umbel.account()["token"],
        urlsplit((umbel.home / "redis" / "service.url").read_text()).password,
    ]
    for log in umbel.home.rglob("*.log"):
        text = log.read_text(errors="replace")
        assert not [secret for secret in secrets if secret and secret in text], log
