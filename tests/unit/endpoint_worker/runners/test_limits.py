"""Limits, cancelling, giving back, draining, resizing."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from endpoint_worker.scheduling import placement
from tests.support.wait import wait_until
from tests.unit.endpoint_worker.bench import Bench, Running, statuses
from umbel.protocol.messages import Interruption, Status
from umbel.serialize import load_result

MIB = 1024 * 1024


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def fill(size: int) -> int:
    return len(bytearray(size))


def pid() -> int:
    return os.getpid()


def test_a_call_over_its_time_is_stopped_with_all_it_started(bench: Bench, tmp_path: Path) -> None:
    note = tmp_path / "pid"

    def start_and_wait(i: int) -> int:
        if i == 0:
            return i
        note.write_text(str(subprocess.Popen(["sleep", "300"]).pid))
        time.sleep(300)
        return i

    began = time.monotonic()
    outcomes = bench.run(start_and_wait, [(0,), (1,), (2,)], timeout=0.3)
    assert time.monotonic() - began < 3
    assert statuses(outcomes) == ["succeeded", "TIMEOUT", "returned"]
    assert "0.3 s" in (outcomes[1].message or "")
    assert outcomes[1].wall == pytest.approx(0.35, abs=0.25)
    wait_until(lambda: not psutil.pid_exists(int(note.read_text())), what="the call's child is gone")


def test_a_call_that_waits_for_a_child_is_stopped_before_the_child(bench: Bench) -> None:
    def wait() -> int:
        # to kill many takes long enough for the call to see the first one die, and to succeed
        return [subprocess.Popen(["sleep", "300"]) for _ in range(60)][0].wait()

    for _ in range(3):
        assert statuses(bench.run(wait, timeout=0.5)) == ["TIMEOUT"]


def test_the_endpoints_own_limit_holds_where_a_submission_names_none(tmp_path: Path) -> None:
    with Bench(tmp_path, timeout=0.2) as bench:
        assert statuses(bench.run(nap, [(30.0,)])) == ["TIMEOUT"]
        assert statuses(bench.run(nap, [(30.0,)], timeout=100)) == ["TIMEOUT"]
        assert statuses(bench.run(nap, [(0.0,)])) == ["succeeded"]


def test_a_function_that_takes_too_long_to_load(bench: Bench) -> None:
    class Slow:
        def __reduce__(self) -> Any:
            return time.sleep, (60,)

    slow = Slow()
    outcomes = bench.run(lambda: slow, [(), ()], timeout=0.4)
    # the second call was given back while the function was being loaded
    assert statuses(outcomes) == ["TIMEOUT", "returned"]
    assert "loading the function" in (outcomes[0].message or "")


def test_a_call_over_its_memory_fails_and_the_next_one_has_its_own(bench: Bench) -> None:
    outcomes = bench.run(fill, [(MIB,), (800 * MIB,), (MIB,)], memory=200 * MIB)
    assert statuses(outcomes) == ["succeeded", "MEMORY_LIMIT", "succeeded"]
    assert statuses(bench.run(fill, [(300 * MIB,)])) == ["succeeded"]


def test_a_call_over_its_processor_time_is_stopped(bench: Bench) -> None:
    def spin() -> None:
        while True:
            pass

    (outcome,) = bench.run(spin, cpu=0.3)
    assert outcome.code == "TIMEOUT"
    assert "processor time" in (outcome.message or "")


def open_many(count: int) -> int:
    return len([os.open(os.devnull, os.O_RDONLY) for _ in range(count)])  # and never closed


def lower_for_ever(most: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def file_limits() -> tuple[int, int]:
    return resource.getrlimit(resource.RLIMIT_NOFILE)


def test_a_call_over_its_open_files_fails_and_the_next_function_has_its_own(tmp_path: Path) -> None:
    with Bench(tmp_path, open_files=64) as bench:
        first = bench.value(pid)
        (outcome,) = bench.run(open_many, [(200,)])
        assert outcome.code == "TASK_ERROR"
        assert "Too many open files" in (outcome.message or "")
        assert bench.value(nap, 0.0) == 0.0
        assert bench.value(pid) != first, "a runner full of files that were left open is replaced"
        assert bench.value(open_many, 20) == 20
        assert bench.value(file_limits) == (64, 64), "a call cannot raise it"


def test_a_bundle_may_ask_for_fewer_open_files(tmp_path: Path) -> None:
    with Bench(tmp_path, open_files=256) as bench:
        (outcome,) = bench.run(open_many, [(60,)], open_files=50)
        assert outcome.code == "TASK_ERROR" and "Too many open files" in (outcome.message or "")
        assert load_result(bench.run(file_limits, open_files=50)[0].payload) == (50, 256)
        # never more than the endpoint's, and the next bundle has that
        assert load_result(bench.run(file_limits, open_files=1000)[0].payload) == (256, 256)
        assert bench.value(file_limits) == (256, 256)
        assert bench.value(open_many, 100) == 100
        # a call that takes from itself what cannot be given back leaves a runner that works
        assert bench.run(lower_for_ever, [(45,)], open_files=50)[0].status == Status.SUCCEEDED
        assert bench.value(nap, 0.0) == 0.0


def test_of_endpoint_and_bundle_the_smaller_limit_counts(tmp_path: Path) -> None:
    with Bench(tmp_path, timeout=0.4, memory=200 * MIB, output=10) as bench:
        assert statuses(bench.run(nap, [(30.0,)], timeout=60.0)) == ["TIMEOUT"]
        assert statuses(bench.run(nap, [(0.2,)], timeout=0.1)) == ["TIMEOUT"]
        assert statuses(bench.run(fill, [(400 * MIB,)], memory=900 * MIB)) == ["MEMORY_LIMIT"]
        assert statuses(bench.run(fill, [(100 * MIB,)], memory=50 * MIB)) == ["MEMORY_LIMIT"]
        for asked, kept in ((None, 10), (100, 10), (4, 4), (0, 0)):
            log = bench.run(print, [("x" * 50,)], output=asked)[0].log
            assert log is not None and log.total == 51
            assert len(log.head) + len(log.tail) == kept


def test_without_a_limit_calls_have_the_workers_own(bench: Bench) -> None:
    assert bench.value(open_many, 200) == 200


def test_a_long_call_is_told_of_once_and_its_use_is_measured(bench: Bench) -> None:
    running = bench.start(nap, [(0.7,)])
    (outcome,) = running.wait()
    told = [o for o in running.outcomes if o.status == Status.RUNNING]
    assert len(told) == 1
    assert 0.2 <= told[0].wall < 0.7
    assert told[0].started == pytest.approx(outcome.started, abs=0.05)
    assert outcome.usage is not None
    assert outcome.usage["cpu"] < 0.5
    assert outcome.usage["max_rss"] > MIB


def test_short_calls_are_never_told_of(bench: Bench) -> None:
    running = bench.start(nap, [(0.001,)] * 50)
    assert statuses(running.wait()) == ["succeeded"] * 50
    assert len(running.outcomes) == 50


def test_calls_behind_a_long_one_are_given_back_at_once(bench: Bench, tmp_path: Path) -> None:
    def touch(seconds: float, name: str) -> None:
        (tmp_path / name).touch()
        time.sleep(seconds)

    running = bench.start(touch, [(0.0, "a"), (1.5, "b"), (0.0, "c"), (0.0, "d")])
    wait_until(
        lambda: sum(o.status == Status.RETURNED for o in running.outcomes) == 2,
        timeout=1.0,
        what="two calls are given back while the long one runs",
    )
    assert any(o.task_id == running.bundle.calls[0].task_id for o in running.outcomes), "results do not wait"
    assert statuses(running.wait()) == ["succeeded", "succeeded", "returned", "returned"]
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["a", "b"]


def test_a_bundle_that_takes_long_is_given_back_in_the_middle(bench: Bench, tmp_path: Path) -> None:
    def touch(i: int) -> None:
        (tmp_path / f"t{i}").touch()
        time.sleep(0.02)

    outcomes = bench.run(touch, [(i,) for i in range(100)])
    done = [i for i, o in enumerate(outcomes) if o.status == Status.SUCCEEDED]
    assert 3 <= len(done) < 60
    assert done == list(range(len(done)))
    assert all(o.status == Status.RETURNED for o in outcomes[len(done) :])
    assert len(list(tmp_path.glob("t*"))) == len(done), "what is given back has not started"


@pytest.mark.parametrize("seed", range(5))
def test_giving_back_is_exact_under_many_lengths(bench: Bench, tmp_path: Path, seed: int) -> None:
    def touch(i: int, seconds: float) -> None:
        (tmp_path / f"t{i}").touch()
        time.sleep(seconds)

    lengths = [0.0003 * ((i * 7919 + seed * 104729) % 40) for i in range(200)]
    outcomes = bench.run(touch, list(enumerate(lengths)))
    started = {f"t{i}" for i, o in enumerate(outcomes) if o.status == Status.SUCCEEDED}
    assert {path.name for path in tmp_path.glob("t*")} == started


def test_bundles_that_wait_behind_long_calls_are_given_back(bench: Bench) -> None:
    long = bench.start(nap, [(1.5,)])
    long.accepted.wait(10)
    waiting = bench.start(nap, [(0.0,), (0.0,)])
    wait_until(lambda: len(waiting.outcomes) == 2, timeout=1.4, what="the waiting bundle is given back")
    assert statuses(waiting.final) == ["returned"] * 2
    # its place in Celery's window is taken until a slot is free
    assert not waiting.accepted.is_set()
    assert waiting.bundle.id not in bench.supervisor.held
    long.wait()
    assert waiting.accepted.wait(5)
    assert bench.value(pid)


def test_a_running_call_is_cancelled_within_two_seconds(bench: Bench) -> None:
    running = bench.start(nap, [(60.0,), (0.0,)])
    running.until_running()
    began = time.monotonic()
    bench.supervisor.cancel([running.bundle.calls[0].task_id])
    assert statuses(running.wait()) == ["skipped", "returned"]
    assert time.monotonic() - began < 2.0
    assert bench.value(pid)


def test_cancelled_calls_that_wait_are_skipped(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "WAIT_FOR_SLOT", 60.0)
    long = bench.start(nap, [(0.2,)])
    waiting = bench.start(nap, [(0.0,), (0.0,), (0.0,)])
    bench.supervisor.cancel([waiting.bundle.calls[1].task_id])
    assert statuses(waiting.wait()) == ["succeeded", "skipped", "succeeded"]
    assert statuses(long.wait()) == ["succeeded"]


def test_calls_cancelled_before_they_come_are_skipped(bench: Bench) -> None:
    from tests.unit.endpoint_worker.bench import make_bundle

    running = Running(bench, *make_bundle(nap, [(60.0,), (0.0,)]))
    bench.supervisor.cancel([running.bundle.calls[0].task_id])
    bench.supervisor.submit(running.job)
    assert statuses(running.wait()) == ["skipped", "succeeded"]


def test_cancelling_a_call_that_has_ended_changes_nothing(bench: Bench) -> None:
    running = bench.start(nap, [(0.0,), (0.0,)])
    running.wait()
    bench.supervisor.cancel(c.task_id for c in running.bundle.calls)
    before = bench.value(pid)
    assert bench.value(pid) == before
    assert statuses(running.final) == ["succeeded"] * 2


def test_a_drain_lets_running_calls_end_and_gives_back_the_rest(bench: Bench) -> None:
    running = bench.start(nap, [(0.4,), (0.0,)])
    running.accepted.wait(10)
    waiting = bench.start(nap, [(0.0,)])
    drained = bench.supervisor.drain(5.0)
    assert drained.wait(5)
    assert statuses(running.final) in (["succeeded", "returned"], ["returned", "returned"])
    assert statuses(waiting.final) == ["returned"]
    late = bench.start(nap, [(0.0,)])
    assert statuses(late.wait()) == ["returned"]


def test_a_drain_that_is_over_stops_what_still_runs(bench: Bench) -> None:
    running = bench.start(nap, [(60.0,), (0.0,)])
    running.until_running()
    began = time.monotonic()
    assert bench.supervisor.drain(0.3).wait(5)
    assert time.monotonic() - began < 3
    assert statuses(running.final) == ["WORKER_STOPPED", "returned"]
    assert running.final[0].message


def test_what_the_end_of_a_batch_job_stops_is_told_apart(bench: Bench) -> None:
    running = bench.start(nap, [(60.0,), (0.0,)])
    running.until_running()
    assert bench.supervisor.drain(0.3, Interruption.WALLTIME).wait(5)
    stopped, rest = running.final
    assert (stopped.status, stopped.code, rest.status) == ("lost", "WALLTIME_EXCEEDED", "returned")
    assert stopped.wall > 0.2 and "batch job" in str(stopped.message)


def test_a_runner_that_is_told_to_end_was_interrupted(bench: Bench) -> None:
    runner = bench.value(pid)
    running = bench.start(nap, [(60.0,)])
    running.until_running()
    os.kill(runner, signal.SIGTERM)
    assert statuses(running.wait()) == ["WORKER_STOPPED"]


def test_slots_run_side_by_side_and_can_be_added_and_removed(tmp_path: Path) -> None:
    gate = tmp_path / "open"

    def who() -> int:
        while not gate.exists():
            time.sleep(0.01)
        return os.getpid()

    with Bench(tmp_path, slots=1) as bench:
        bench.supervisor.resize(2)
        wait_until(lambda: bench.supervisor.slots == 3, what="three slots")
        bundles = [bench.start(who) for _ in range(3)]
        wait_until(lambda: bench.supervisor.busy == 3, what="three calls at once")
        gate.touch()
        pids = {load_result(b.wait()[0].payload) for b in bundles}
        assert len(pids) == 3
        bench.supervisor.resize(-2)
        wait_until(lambda: sum(map(psutil.pid_exists, pids)) == 1, what="two runners are gone")
        assert bench.value(who) in pids


def test_renewing_replaces_runners_when_they_are_idle(bench: Bench) -> None:
    first = bench.value(pid)
    running = bench.start(nap, [(0.3,)])
    running.accepted.wait(10)
    bench.supervisor.replace_all()
    assert statuses(running.wait()) == ["succeeded"]
    assert bench.value(pid) != first


def test_a_runner_is_recycled_after_so_many_calls(tmp_path: Path) -> None:
    with Bench(tmp_path, recycle_calls=3) as bench:
        pids = [bench.value(pid) for _ in range(6)]
    assert pids[0] == pids[1] == pids[2] != pids[3] == pids[4] == pids[5]


def test_a_runner_is_recycled_when_it_has_grown(tmp_path: Path) -> None:
    def keep(size: int) -> int:
        sys.kept = bytearray(size)  # type: ignore[attr-defined]
        return os.getpid()

    with Bench(tmp_path, recycle_memory=200 * MIB) as bench:
        first = bench.value(keep, MIB)
        assert bench.value(keep, 300 * MIB) == first
        assert bench.value(pid) != first


def test_runners_that_cannot_start_are_told_of_and_tried_again(tmp_path: Path) -> None:
    with Bench(tmp_path, python=("/bin/false",)) as bench:
        wait_until(lambda: "could not start" in bench.supervisor.problem, what="the problem is told")
        running = bench.start(nap, [(0.0,)])
        wait_until(lambda: len(running.outcomes) == 1, timeout=9.0, what="the bundle is given back")
        assert running.outcomes[0].status == Status.RETURNED


def test_nothing_grows_over_many_deaths(bench: Bench) -> None:
    def die() -> None:
        os._exit(1)

    me = psutil.Process()
    bench.value(pid)
    before = me.num_fds()
    for _ in range(10):
        assert statuses(bench.run(die)) == ["lost"]
    bench.value(pid)
    assert me.num_fds() == before
