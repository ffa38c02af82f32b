"""Whatever a call does, it has one outcome with the right code, and the next call runs clean."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from endpoint_worker.runners import execution
from tests.support.wait import wait_until
from tests.unit.endpoint_worker.bench import Bench, statuses
from umbel.protocol.messages import Status
from umbel.serialize import load_exception, load_result


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow machine must not make calls be given back here."""
    monkeypatch.setattr(execution, "RETURN_AFTER_CALL", 60.0)
    monkeypatch.setattr(execution, "RETURN_AFTER_BUNDLE", 60.0)


def echo(value: Any = None) -> Any:
    return value


def test_values_come_back(bench: Bench) -> None:
    outcomes = bench.run(echo, [(1,), ("two",), ([3],), ({"four": b"4"},)])
    assert [load_result(o.payload) for o in outcomes] == [1, "two", [3], {"four": b"4"}]
    assert all(0 <= o.wall < 5 and abs(o.started - time.time()) < 60 for o in outcomes)


def hinder_the_reset(until: str) -> int:
    class Slow(str):
        def __eq__(self, other: object) -> bool:
            deadline = time.monotonic() + 20
            while not os.path.exists(until) and time.monotonic() < deadline:
                time.sleep(0.01)
            return False

        __hash__ = str.__hash__

    sys.argv[0] = Slow()
    return os.getpid()


def test_an_outcome_does_not_wait_until_its_runner_is_restored(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "REPORT_ENDS_INTERVAL", 60.0)
    until = tmp_path / "until"
    running = bench.start(hinder_the_reset, [(str(until),)])
    wait_until(lambda: running.outcomes, what="the outcome")
    assert statuses(running.final) == [Status.SUCCEEDED]
    # the runner is not free: it would still have the arguments of this call
    assert bench.supervisor._pool.busy == 1
    until.touch()
    pid = load_result(running.wait()[0].payload)
    assert bench.value(os.getpid) == pid


def test_a_thousand_calls_in_one_bundle(bench: Bench) -> None:
    outcomes = bench.run(echo, [(i,) for i in range(1000)])
    assert [load_result(o.payload) for o in outcomes] == list(range(1000))


def test_results_that_do_not_fit_in_shared_memory(bench: Bench) -> None:
    outcomes = bench.run(lambda n: bytes([n]) * 400_000, [(i,) for i in range(12)])
    assert [load_result(o.payload) for o in outcomes] == [bytes([i]) * 400_000 for i in range(12)]


def test_an_exception_travels_as_data(bench: Bench) -> None:
    def divide(a: int, b: int) -> float:
        return a / b

    good, bad = bench.run(divide, [(4, 2), (1, 0)])
    assert (good.status, bad.status, bad.code) == (Status.SUCCEEDED, Status.FAILED, "TASK_ERROR")
    assert bad.message == "ZeroDivisionError: division by zero"
    assert isinstance(load_exception(bad.payload, bad.task_id), ZeroDivisionError)
    assert "divide" in json.loads(bad.payload)["traceback"]


def leave(i: int) -> int:
    if i == 2:
        os._exit(7)
    return i


def crash(i: int) -> int:
    if i == 2:
        os.kill(os.getpid(), signal.SIGSEGV)
    return i


def killed(i: int) -> int:
    if i == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return i


def overflow(i: int) -> int:
    if i == 2:
        import ctypes

        callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)
        sys.setrecursionlimit(10**9)

        @callback
        def again(n: int) -> int:
            return again(n)

        again(0)
    return i


@pytest.mark.parametrize(
    ("function", "said"),
    [(leave, "exited with code 7"), (crash, "SIGSEGV"), (killed, "SIGKILL"), (overflow, "SIGSEGV")],
)
def test_a_runner_that_dies_loses_only_the_call_it_was_in(bench: Bench, function: Any, said: str) -> None:
    outcomes = bench.run(function, [(i,) for i in range(5)])
    assert statuses(outcomes) == ["succeeded", "succeeded", "lost", "returned", "returned"]
    assert said in (outcomes[2].message or "")
    assert [load_result(o.payload) for o in outcomes[:2]] == [0, 1]
    assert bench.value(echo, 5) == 5


def test_a_runner_that_dies_while_it_loads_the_function_loses_all_calls(bench: Bench) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return os._exit, (3,)

    bomb = Bomb()
    outcomes = bench.run(lambda i: (bomb, i), [(i,) for i in range(3)])
    assert statuses(outcomes) == ["lost"] * 3
    assert "loading the function" in (outcomes[0].message or "")
    assert bench.value(echo, 5) == 5


def stop(_: int) -> None:
    sys.exit(3)


def interrupt(_: int) -> None:
    raise KeyboardInterrupt


def deep(n: int) -> int:
    return deep(n + 1)


def unpicklable(_: int) -> Any:
    return threading.Lock()


def large(_: int) -> bytes:
    return os.urandom(11 * 1024 * 1024)  # bytes that cannot be squeezed


@pytest.mark.parametrize(
    ("function", "code", "said"),
    [
        (stop, "TASK_ERROR", "SystemExit: 3"),
        (interrupt, "TASK_ERROR", "KeyboardInterrupt"),
        (deep, "TASK_ERROR", "RecursionError"),
        (unpicklable, "RESULT_NOT_SERIALIZABLE", "lock"),
        (large, "RESULT_TOO_LARGE", "10,485,760"),
    ],
)
def test_a_call_that_ends_badly_is_an_outcome_and_the_runner_lives(
    bench: Bench, function: Any, code: str, said: str
) -> None:
    before = bench.value(os.getpid)
    outcomes = bench.run(function, [(1,), (2,)])
    assert statuses(outcomes) == [code, code]
    assert said in (outcomes[0].message or "")
    assert bench.value(os.getpid) == before


def test_arguments_that_cannot_be_loaded(bench: Bench) -> None:
    class Bad:
        def __reduce__(self) -> Any:
            return int, ("no number",)

    (outcome,) = bench.run(echo, [(Bad(),)])
    assert outcome.code == "DESERIALIZE_ERROR"
    assert "invalid literal" in (outcome.message or "")


def test_a_function_that_cannot_be_loaded_fails_each_time(bench: Bench) -> None:
    class Bad:
        def __reduce__(self) -> Any:
            return __import__, ("there_is_no_such_module",)

    bad = Bad()

    def needs() -> Any:
        return bad

    for _ in range(2):
        outcomes = bench.run(needs, [(), ()])
        assert statuses(outcomes) == ["DESERIALIZE_ERROR"] * 2
        assert "there_is_no_such_module" in (outcomes[0].message or "")


def close_output() -> None:
    print("to nobody")
    sys.stdout.close()
    os.close(1)
    os.close(2)


def shout() -> None:
    os.write(1, b"x" * 1_000_000)
    print("y" * 1_000_000)


def move() -> None:
    os.chdir("/")


def move_and_remove() -> None:
    folder = os.getcwd()
    os.chdir("/")
    os.rmdir(folder)


def spoil_environment() -> None:
    os.environ["MARK"] = "dirty"
    os.environ["MORE"] = "1"
    del os.environ["PATH"]


def spoil_signals() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.05)


def mask_files() -> None:
    os.umask(0o777)


def lower_limits() -> None:
    sys.setrecursionlimit(60)


def state() -> list[Any]:
    time.sleep(0.1)
    print("still here")
    return [
        os.getcwd(),
        dict(os.environ),
        str(signal.getsignal(signal.SIGTERM)),
        signal.getsignal(signal.SIGINT) is signal.default_int_handler,
        os.umask(0o022),
        sys.getrecursionlimit(),
        sys.stdout.closed,
        os.fstat(1).st_rdev == os.stat("/dev/null").st_rdev,
    ]


@pytest.mark.parametrize(
    "spoil",
    [
        close_output,
        shout,
        move,
        move_and_remove,
        spoil_environment,
        spoil_signals,
        mask_files,
        lower_limits,
    ],
)
def test_the_next_call_runs_clean(bench: Bench, spoil: Any) -> None:
    clean = bench.value(state)
    assert bench.value(spoil) is None
    assert bench.value(state) == clean


def test_calls_of_one_bundle_run_clean_too(bench: Bench) -> None:
    def visit(where: str) -> str:
        before = os.getcwd() + os.environ.get("VISITED", "")
        os.chdir(where)
        os.environ["VISITED"] = where
        return before

    outcomes = bench.run(visit, [("/",), ("/tmp",), ("/",)])
    assert len({load_result(o.payload) for o in outcomes}) == 1


def test_a_call_finds_its_output_open_whatever_an_earlier_one_of_its_bundle_closed(bench: Bench) -> None:
    def close(i: int) -> int:
        for fd in (1, 2):
            os.write(fd, b"here")
        print("here", flush=True)
        if i % 2:
            sys.stdout.close()
        os.closerange(0, 3)
        return i

    outcomes = bench.run(close, [(i,) for i in range(4)])
    assert [load_result(o.payload) for o in outcomes] == [0, 1, 2, 3]


def test_a_call_that_forks_and_returns_twice_has_one_outcome(bench: Bench) -> None:
    def fork() -> bool:
        return os.fork() > 0

    outcomes = bench.run(fork, [(), (), ()])
    assert [load_result(o.payload) for o in outcomes] == [True] * 3
    assert bench.value(echo, 1) == 1


def test_a_call_that_closes_every_descriptor_costs_only_its_runner(bench: Bench) -> None:
    def close_all(i: int) -> int:
        os.closerange(0, 256)
        return i

    first, second = bench.run(close_all, [(1,), (2,)])
    assert load_result(first.payload) == 1
    # the second one had begun, or it is given back; it is not lost
    assert second.status in (Status.SUCCEEDED, Status.RETURNED)
    assert bench.value(echo, 1) == 1


def test_a_call_that_talks_nonsense_to_the_supervisor_costs_only_its_runner(bench: Bench) -> None:
    def babble() -> None:
        for fd in range(3, 64):
            try:
                os.write(fd, b"\xff" * 64)
            except OSError:
                pass
            try:
                os.truncate(fd, 0)
            except OSError:
                pass
        time.sleep(30)

    (outcome,) = bench.run(babble)
    assert outcome.status == Status.LOST
    assert bench.value(echo, 1) == 1


def test_children_and_threads_left_behind_do_not_meet_another_function(bench: Bench, tmp_path: Path) -> None:
    note = tmp_path / "pid"

    def litter() -> int:
        import subprocess

        child = subprocess.Popen(["sleep", "300"])
        threading.Thread(target=time.sleep, args=(300,), daemon=True).start()
        note.write_text(str(child.pid))
        return os.getpid()

    first = bench.value(litter)
    child = int(note.read_text())
    assert psutil.pid_exists(child)
    assert bench.value(os.getpid) != first
    wait_until(lambda: not psutil.pid_exists(child), what="the child left behind is gone")


def test_an_idle_runner_with_leftovers_is_replaced_by_itself(bench: Bench, tmp_path: Path) -> None:
    def litter() -> int:
        import subprocess

        # in a session of its own: killing the runner's process group does not reach it
        return subprocess.Popen(["sleep", "300"], start_new_session=True).pid

    child = bench.value(litter)
    wait_until(lambda: not psutil.pid_exists(child), what="the child left behind is gone")


def test_calls_see_no_secret_and_no_descriptor(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UMBEL_TOKEN", "secret")

    def look() -> tuple[list[str], list[str], int]:
        held = []
        for fd in os.listdir("/proc/self/fd"):
            try:
                held += [os.readlink(f"/proc/self/fd/{fd}")] if int(fd) > 2 else []
            except FileNotFoundError:
                pass  # the one that listed the folder
        kinds = sorted(name.split(":")[0] for name in held)
        return kinds, sorted(os.environ), os.getsid(0) - os.getpid()

    kinds, environment, session = bench.value(look)
    # the pipe is where what it writes goes, as descriptors 1 and 2 do
    assert kinds == ["/memfd", "pipe", "socket"]
    assert "UMBEL_TOKEN" not in environment
    assert session == 0


def test_the_runners_die_with_their_supervisor(tmp_path: Path) -> None:
    with Bench(tmp_path, slots=2) as bench:
        first = bench.value(os.getpid)
        assert psutil.pid_exists(first)
    assert not psutil.pid_exists(first)
