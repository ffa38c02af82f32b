"""Calls in processes of their own, and what becomes of processes that calls fork."""

from __future__ import annotations

import atexit
import os
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from endpoint_worker.runners import execution
from tests.support.wait import wait_until
from tests.unit.endpoint_worker.bench import Bench, statuses
from umbel.protocol.messages import Status
from umbel.serialize import load_result


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow machine must not make calls be given back here."""
    monkeypatch.setattr(execution, "RETURN_AFTER_CALL", 60.0)
    monkeypatch.setattr(execution, "RETURN_AFTER_BUNDLE", 60.0)


def isolated(bench: Bench, function: Any, arguments: Any = ((),), **options: Any) -> list[Any]:
    return bench.run(function, arguments, isolation="process", **options)


def values(outcomes: list[Any]) -> list[Any]:
    assert all(outcome.status == Status.SUCCEEDED for outcome in outcomes), outcomes
    return [load_result(outcome.payload) for outcome in outcomes]


def leave_state() -> tuple[int, int, float]:
    sys.calls = getattr(sys, "calls", 0) + 1  # type: ignore[attr-defined]
    sys.stdout.write("printed\n")
    return os.getpid(), sys.calls, random.random()  # type: ignore[attr-defined]


def test_each_call_has_a_process_of_its_own(bench: Bench) -> None:
    outcomes = isolated(bench, leave_state, [()] * 5)
    pids, counts, numbers = zip(*values(outcomes), strict=True)
    assert len(set(pids)) == 5 and set(counts) == {1} and len(set(numbers)) == 5
    assert [outcome.log.head for outcome in outcomes] == [b"printed\n"] * 5
    # the template stays
    assert bench.value(leave_state)[1] == 1


def test_the_endpoint_may_isolate_all_calls(tmp_path: Path) -> None:
    with Bench(tmp_path, isolation="process") as bench:
        assert len({pid for pid, _, _ in values(bench.run(leave_state, [()] * 3))}) == 3


def test_exceptions_items_large_results_and_usage(bench: Bench) -> None:
    def fail() -> None:
        raise KeyError("x")

    def yields() -> Iterator[int]:
        yield from range(3)

    def large(size: int) -> bytes:
        time.sleep(0.05)
        return os.urandom(size)

    assert statuses(isolated(bench, fail, [(), ()])) == ["TASK_ERROR"] * 2
    outcomes = isolated(bench, large, [(2_000_000,), (10,)])
    assert [len(value) for value in values(outcomes)] == [2_000_000, 10]
    assert outcomes[0].usage["max_rss"] > 1_000_000
    (outcome,) = isolated(bench, yields)
    assert outcome.status == Status.SUCCEEDED and outcome.items is not None


@pytest.mark.parametrize(
    ("end", "said"), [("os._exit(7)", "exited with code 7"), ("os.kill(os.getpid(), 11)", "SIGSEGV")]
)
def test_a_call_whose_process_dies_is_lost(bench: Bench, end: str, said: str) -> None:
    def die(code: str) -> None:
        exec(code, {"os": os})

    outcomes = isolated(bench, die, [("1",), (end,), ("1",)])
    assert statuses(outcomes) == ["succeeded", "lost", "returned"]
    assert said in (outcomes[1].message or "")
    assert bench.value(abs, -1) == 1


def test_limits_and_cancellation(bench: Bench) -> None:
    def spin() -> None:
        while True:
            pass

    assert statuses(isolated(bench, spin, timeout=0.5)) == ["TIMEOUT"]
    assert statuses(isolated(bench, spin, cpu=0.7)) == ["TIMEOUT"]
    running = bench.start(time.sleep, [(60,)], isolation="process")
    running.until_running()
    bench.supervisor.cancel([running.bundle.calls[0].task_id])
    assert [outcome.status for outcome in running.wait()] == [Status.SKIPPED]


def test_what_a_call_starts_ends_with_it(bench: Bench, tmp_path: Path) -> None:
    note = tmp_path / "pid"

    def litter() -> None:
        import subprocess

        note.write_text(str(subprocess.Popen(["sleep", "300"], start_new_session=True).pid))

    runner = bench.value(os.getpid)
    isolated(bench, litter)
    wait_until(lambda: not os.path.exists(f"/proc/{note.read_text()}"), what="the child is gone")
    assert bench.value(os.getpid) == runner


def _status_of_child(how: str) -> int:
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    if how == "return":
        return 0
    exec(how, {"sys": sys, "os": os})
    return 0


@pytest.mark.parametrize("isolation", [None, "process"])
@pytest.mark.parametrize(
    ("how", "code"),
    [
        ("return", 0),
        ("sys.exit(3)", 3),
        ("sys.exit()", 0),
        ("sys.exit('a reason')", 1),
        ("1 / 0", 1),
        ("os._exit(4)", 4),
    ],
)
def test_a_forked_child_has_the_exit_status_of_its_code(
    bench: Bench, how: str, code: int, isolation: str | None
) -> None:
    outcomes = bench.run(_status_of_child, [(how,), (how,)], isolation=isolation)
    assert [os.waitstatus_to_exitcode(status) for status in values(outcomes)] == [code, code]


def _at_exit(path: str, seconds: float = 0.0) -> int:
    def note() -> None:
        time.sleep(seconds)
        Path(path).write_text("ran")

    atexit.register(note)
    return os.getpid()


def test_exit_handlers_run_when_the_runner_ends(tmp_path: Path) -> None:
    with Bench(tmp_path) as bench:
        first = bench.value(_at_exit, str(tmp_path / "first"))
        assert not (tmp_path / "first").exists()
        bench.supervisor.replace_all()
        wait_until((tmp_path / "first").exists, what="the handler has run")
        assert bench.value(_at_exit, str(tmp_path / "second")) != first
    assert (tmp_path / "second").exists()


def test_an_exit_handler_that_hangs_is_killed(tmp_path: Path) -> None:
    with Bench(tmp_path) as bench:
        first = bench.value(_at_exit, str(tmp_path / "never"), 60.0)
        bench.supervisor.replace_all()
        wait_until(lambda: not os.path.exists(f"/proc/{first}"), what="the runner is killed")
    assert not (tmp_path / "never").exists()


def test_exit_handlers_of_an_isolated_call_run_at_its_end(bench: Bench, tmp_path: Path) -> None:
    isolated(bench, _at_exit, [(str(tmp_path / "note"),)])
    assert (tmp_path / "note").read_text() == "ran"
