"""An unexpected error anywhere in the supervisor ends one bundle with outcomes, and nothing else."""

from __future__ import annotations

import errno
import gc
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from endpoint_worker.ipc import output, shared_memory
from endpoint_worker.ipc.output import OutputReader
from endpoint_worker.runners import process as processes
from endpoint_worker.runners.execution import Execution
from endpoint_worker.runners.process import RunnerProcess
from endpoint_worker.runners.slot import Slot
from endpoint_worker.sandbox.channel import MountedSocket
from endpoint_worker.scheduling import placement, runner_pool
from endpoint_worker.scheduling.queue import CANCELLED_SECONDS, JobQueue
from endpoint_worker.scheduling.runner_pool import RunnerPool
from tests.support.wait import wait_until
from tests.unit.endpoint_worker.bench import Bench, Running, make_bundle, statuses
from umbel.serialize import load_result


def fail_once(
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    error: Exception,
    when: Callable[..., bool] = lambda *_: True,
) -> list[int]:
    """Make the next call of ``owner.name`` raise; return a list that then has an element."""
    real, happened = getattr(owner, name), []

    def wrapper(*args: Any, **options: Any) -> Any:
        if not happened and when(*args):
            happened.append(1)
            raise error
        return real(*args, **options)

    monkeypatch.setattr(owner, name, wrapper)
    return happened


def nap() -> str:
    time.sleep(0.3)
    return "slept"


def leave() -> None:
    time.sleep(0.3)
    os._exit(3)


def has_bundle(slot: Slot, *_: Any) -> bool:
    return slot.execution is not None


PLACES = [
    (Slot, "begin", nap, None),
    (Slot, "check", nap, None),
    (Slot, "read", nap, has_bundle),
    (Slot, "read", leave, has_bundle),
    (Slot, "ended", nap, has_bundle),
    (Slot, "due_for_recycling", nap, None),
    (Execution, "new_outcomes", nap, None),
    (Execution, "finish", nap, None),
    (Execution, "runner_died", leave, None),
    (RunnerProcess, "limit_memory", nap, None),
    (OutputReader, "begin", nap, None),
    (RunnerPool, "choose", nap, None),
    (RunnerPool, "register", nap, lambda pool, slot: slot.execution is not None),
    (RunnerPool, "recycle_if_due", nap, None),
    (JobQueue, "add", nap, None),
    (JobQueue, "overdue", nap, None),
    (placement, "_find", nap, None),
]


@pytest.mark.parametrize(
    ("owner", "name", "function", "when"),
    PLACES,
    ids=[f"{p[0].__name__}.{p[1]}-{p[2].__name__}" for p in PLACES],
)
def test_an_unexpected_error_ends_one_bundle_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, function: Any, when: Any
) -> None:
    error = RuntimeError("an injected error")
    with Bench(tmp_path, slots=2) as bench:
        bench.until_idle()
        other = bench.start(nap)
        other.until_running()
        happened = fail_once(monkeypatch, owner, name, error, when or (lambda *_: True))
        hit = bench.start(function)
        results = [running.wait()[0] for running in (hit, other)]
        assert happened
        assert hit.accepted.is_set()
        allowed = ("succeeded", "lost")
        assert all(outcome.status in allowed for outcome in results), results
        assert sum("injected" in (outcome.message or "") for outcome in results) <= 1
        assert bench.value(abs, -4) == 4
        assert bench.supervisor.held == []
        assert bench.supervisor.waiting == 0
        bench.until_idle()
        assert len(bench.supervisor._pool.slots) == 2


def test_a_bundle_whose_start_fails_says_why(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.until_idle()
    fail_once(monkeypatch, Slot, "begin", OSError(errno.ENOSPC, "No space left on device"))
    outcomes = bench.run(abs, [(-1,), (-2,)])
    assert statuses(outcomes) == ["lost", "lost"]
    assert "No space left" in (outcomes[0].message or "")


def test_a_receiver_that_fails_does_not_keep_the_bundle(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.until_idle()
    happened = fail_once(monkeypatch, bench.supervisor._accepted, "_sink", RuntimeError("an injected error"))
    running = bench.start(abs, [(-1,)])
    wait_until(lambda: happened and not bench.supervisor.held, what="the bundle has ended")
    # no outcome, and no heartbeat lists the bundle: the service sends its calls again
    assert running.outcomes == []
    assert bench.value(abs, -4) == 4


def test_a_command_that_fails_does_not_delay_the_others(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.until_idle()
    happened = fail_once(monkeypatch, bench.supervisor, "_cancel", RuntimeError("an injected error"))
    bench.supervisor.cancel(["unknown"])
    assert bench.value(abs, -4) == 4
    assert happened


STEPS = [
    (tempfile, "TemporaryFile"),
    (shared_memory, "create"),
    (os, "ftruncate"),
    (processes, "open_pipe"),
    (os, "pipe"),
    (processes, "SharedProgress"),
    (socket, "socketpair"),
    (subprocess, "Popen"),
    (os, "fork"),
    (os, "set_blocking"),
    (processes, "OutputReader"),
]


ERRORS = [
    OSError(errno.EMFILE, "Too many open files"),
    OSError(errno.EAGAIN, "Resource temporarily unavailable"),
    MemoryError(),
    ValueError("embedded null byte"),
]
CASES = [(owner, name, ERRORS[0]) for owner, name in STEPS] + [(subprocess, "Popen", e) for e in ERRORS[1:]]


@pytest.mark.parametrize(
    ("owner", "name", "error"), CASES, ids=[f"{c[0].__name__}.{c[1]}-{type(c[2]).__name__}" for c in CASES]
)
def test_a_runner_that_cannot_be_started_is_started_later_and_leaks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, error: Exception
) -> None:
    monkeypatch.setattr(runner_pool, "FIRST_DELAY", 0.05)
    if name == "fork":
        owner, name = subprocess.Popen, "_execute_child"
    with Bench(tmp_path) as bench:
        bench.until_idle()
        before = len(os.listdir("/proc/self/fd"))
        happened = fail_once(monkeypatch, owner, name, error)
        bench.supervisor.replace_all()
        wait_until(lambda: happened, what="the error has happened")
        bench.until_idle()
        assert bench.value(abs, -4) == 4
        wait_until(lambda: bench.supervisor.problem == "", what="the problem is over")
        gc.collect()
        wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before, what="no descriptor is left open")


@pytest.mark.parametrize("step", [(tempfile, "mkdtemp"), (socket, "socket"), (os, "set_blocking")])
def test_a_listening_socket_that_cannot_be_made_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: tuple[Any, str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    fd, (reading, writing) = shared_memory.create(), output.open_pipe()
    try:
        fail_once(monkeypatch, *step, OSError(errno.EMFILE, "Too many open files"))
        if step[1] == "set_blocking":
            monkeypatch.setattr(socket.socket, "setblocking", lambda *_: os.set_blocking(-1, False))
        with pytest.raises(OSError):
            MountedSocket(fd, writing)
        assert list(tmp_path.iterdir()) == []
        os.fstat(fd), os.fstat(writing)  # still the caller's
    finally:
        for descriptor in (fd, reading, writing):
            os.close(descriptor)


def test_an_environment_without_its_interpreter_fails_its_bundles_only(tmp_path: Path) -> None:
    with Bench(tmp_path) as bench:
        bench.until_idle()
        options = replace(
            bench.supervisor._options, python=("/nowhere/python",), key="broken", for_environment=True
        )
        broken = Running(bench, *make_bundle(abs, [(-1,)]))
        broken.job.options = options
        bench.supervisor.submit(broken.job)
        assert statuses(broken.wait()) == ["ENVIRONMENT_ERROR"]
        (fine,) = bench.run(abs, [(-4,)])
        assert load_result(fine.payload) == 4


def test_a_hundred_thousand_remembered_cancellations_cost_nothing_at_each_look() -> None:
    queue = JobQueue()
    queue.cancel({str(i) for i in range(100_000)}, 0.0)
    began = time.perf_counter()
    for _ in range(1000):
        queue.forget_cancelled(1.0)
    assert (time.perf_counter() - began) / 1000 < 0.001
    queue.cancel({"later"}, 10.0)
    queue.forget_cancelled(CANCELLED_SECONDS + 1.0)
    assert list(queue._cancelled) == ["later"]


def test_memory_without_room_is_closed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(os.listdir("/proc/self/fd"))
    fail_once(monkeypatch, os, "ftruncate", OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(OSError):
        shared_memory.create()
    assert set(os.listdir("/proc/self/fd")) == before
