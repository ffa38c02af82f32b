"""shutdown(), the with statement, executors that are forgotten, programs that end."""

from __future__ import annotations

import contextlib
import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import wait
from pathlib import Path

import pytest

from tests.conformance.work import DEADLINE, Service, open_gate, square, through_gate
from tests.support.wait import wait_until
from umbel import Executor
from umbel.protocol.errors import NotFound

ROOT = Path(__file__).resolve().parents[2]


Threads = Callable[[], list[threading.Thread]]


@pytest.fixture
def umbel_threads() -> Threads:
    """A function that returns the threads of executors that the test has made."""
    before = set(threading.enumerate())
    names = ("umbel-send", "umbel-follow", "umbel-cancel")
    return lambda: [t for t in threading.enumerate() if t.name in names and t not in before]


def test_no_calls_after_it(service: Service) -> None:
    executor = service.executor()
    executor.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(square, 1)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.map(square, [1])


def test_twice(service: Service) -> None:
    executor = service.executor()
    executor.submit(square, 1)
    executor.shutdown()
    executor.shutdown()


def test_waits_for_everything(service: Service, gate: Path, umbel_threads: Threads) -> None:
    executor = service.executor()
    futures = [executor.submit(square, n) for n in range(500)]
    late = executor.submit(through_gate, str(gate), "late")
    threading.Timer(0.2, gate.touch).start()
    executor.shutdown(wait=True)
    assert all(future.done() for future in futures)
    assert late.result(0) == "late"
    assert not umbel_threads()


def test_with_statement(service: Service) -> None:
    with service.executor() as executor:
        futures = [executor.submit(square, n) for n in range(100)]
    assert [future.result(0) for future in futures] == [n * n for n in range(100)]
    with pytest.raises(RuntimeError):
        executor.submit(square, 1)


def test_without_waiting_calls_still_end(service: Service, gate: Path, umbel_threads: Threads) -> None:
    executor = service.executor()
    future = executor.submit(through_gate, str(gate), "late")
    executor.shutdown(wait=False)
    assert not future.done()
    open_gate(gate)
    assert future.result(DEADLINE) == "late"
    wait_until(lambda: not umbel_threads(), DEADLINE, what="the end of the threads")


@pytest.mark.parametrize("count", [50, 2000])
def test_cancel_futures(service: Service, gate: Path, umbel_threads: Threads, count: int) -> None:
    executor = service.executor()
    ended = [executor.submit(square, n) for n in range(5)]
    wait(ended, timeout=DEADLINE)
    waiting = [executor.submit(through_gate, str(gate), "ran") for _ in range(count)]
    assert executor._session.sender.flush(DEADLINE)
    executor.shutdown(wait=False, cancel_futures=True)
    wait_until(lambda: sum(f.cancelled() for f in waiting) >= count - 8, DEADLINE, what="the cancellations")
    open_gate(gate)
    executor.shutdown(wait=True)
    assert all(future.cancelled() or future.result(0) == "ran" for future in waiting)
    assert [future.result(0) for future in ended] == [n * n for n in range(5)]
    assert not umbel_threads()
    with service.client() as client:
        group = client.get_group(executor.group_id)
        assert group["finished"], group


def test_cancel_futures_at_once_lets_the_first_calls_run(service: Service) -> None:
    executor = service.executor()
    futures = [executor.submit(time.sleep, 0.1) for _ in range(50)]
    executor.shutdown(cancel_futures=True)
    assert sum(future.cancelled() for future in futures) > 20
    others = [future for future in futures if not future.cancelled()]
    assert others and all(future.exception(0) is None for future in others)


def test_cancel_futures_of_a_group_that_others_use(service: Service, gate: Path) -> None:
    first = service.executor()
    mine = [first.submit(through_gate, str(gate), "mine") for _ in range(8)]
    wait_until(lambda: mine[3].running(), DEADLINE, what="all slots to be busy")
    second = service.executor(group_id=first.group_id)
    theirs = [second.submit(through_gate, str(gate)) for _ in range(8)]
    wait_until(lambda: theirs[-1].task_id, DEADLINE, what="the second tasks")
    second.shutdown(wait=False, cancel_futures=True)
    wait_until(lambda: sum(future.cancelled() for future in theirs) >= 4, DEADLINE, what="the cancellations")
    assert not any(future.done() for future in mine)
    open_gate(gate)
    assert [future.result(DEADLINE) for future in mine] == ["mine"] * 8
    second.shutdown()
    first.shutdown()


def test_one_that_was_never_used(service: Service, umbel_threads: Threads) -> None:
    with service.executor():
        pass
    assert not umbel_threads()


def test_one_that_is_forgotten_leaves_no_threads(service: Service, umbel_threads: Threads) -> None:
    executor = service.executor()
    future = executor.submit(square, 3)
    gone = weakref.ref(executor)
    del executor
    gc.collect()
    assert gone() is None
    assert future.result(DEADLINE) == 9
    del future
    wait_until(lambda: not umbel_threads(), DEADLINE, what="the end of the threads")


def test_results_are_not_kept_alive(executor: Executor) -> None:
    class Big:
        pass

    future = executor.submit(Big)
    value = weakref.ref(future.result(DEADLINE))
    assert value() is not None
    del future
    wait_until(lambda: gc.collect() is not None and value() is None, DEADLINE, what="the result to be freed")


def test_shutting_down_while_others_submit(service: Service) -> None:
    executor = service.executor()
    futures = []
    refused = threading.Event()

    def submit() -> None:
        try:
            while True:
                futures.append(executor.submit(square, 2))
        except RuntimeError:
            refused.set()

    threads = [threading.Thread(target=submit) for _ in range(4)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(futures) > 100, DEADLINE, what="100 calls")
    executor.shutdown()
    for thread in threads:
        thread.join(DEADLINE)
    assert refused.is_set()
    assert all(future.result(DEADLINE) == 4 for future in futures)


def test_many_threads_submit(executor: Executor) -> None:
    results: dict[int, list[int]] = {}

    def submit(number: int) -> None:
        calls = [executor.submit(square, number * 1000 + n) for n in range(200)]
        results[number] = [call.result(DEADLINE) for call in calls]

    threads = [threading.Thread(target=submit, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert results == {t: [(t * 1000 + n) ** 2 for n in range(200)] for t in range(8)}


def run_program(service: Service, text: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'sdk'}"}
    return subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", service.program + text],
        env=environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )


def end_of(service: Service, group_id: str) -> None:
    """Cancel what a program has left at a service that outlives it."""
    with service.client() as client, contextlib.suppress(NotFound):
        client.cancel_group(group_id)


@pytest.mark.parametrize("ending", ["", "raise SystemExit(0)", "executor.shutdown(wait=False)"])
def test_a_program_ends_although_calls_run(service: Service, ending: str) -> None:
    text = f"""
import time
futures = [executor.submit(time.sleep, 60) for _ in range(20)]
print(executor.group_id)
{ending}
"""
    done = run_program(service, text)
    end_of(service, done.stdout.strip())
    assert (done.returncode, done.stderr) == (0, "")


def test_a_program_that_fails_ends_too(service: Service) -> None:
    text = """
import time
executor.submit(time.sleep, 60)
print(executor.group_id)
raise ValueError('mine')
"""
    done = run_program(service, text)
    end_of(service, done.stdout.strip())
    assert done.returncode == 1 and "ValueError: mine" in done.stderr


def test_a_program_that_forks_is_told(service: Service) -> None:
    text = """
import os
assert executor.submit(pow, 2, 3).result(20) == 8
pid = os.fork()
if pid == 0:
    try:
        executor.submit(pow, 2, 3)
    except RuntimeError as error:
        os._exit(7 if "fork" in str(error) else 8)
    os._exit(9)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
assert executor.submit(pow, 2, 3).result(20) == 8
print("both")
"""
    done = run_program(service, text)
    assert (done.returncode, done.stdout) == (0, "both\n"), done.stderr
