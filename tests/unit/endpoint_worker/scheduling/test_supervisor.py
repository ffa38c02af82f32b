"""The supervisor's loop, one turn at a time, with runners that do what the test says."""

from __future__ import annotations

import selectors
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from endpoint_worker.ipc.shared_memory import LIMIT_DELAY
from endpoint_worker.runners.job import Job
from endpoint_worker.runners.process import RunnerOptions
from endpoint_worker.scheduling import placement, runner_pool
from endpoint_worker.scheduling import supervisor as supervisors
from endpoint_worker.scheduling.supervisor import SLOW_TICK, TICK, Supervisor
from tests.support.wait import wait_until
from tests.unit.endpoint_worker.bench import make_bundle
from tests.unit.endpoint_worker.scheduling.test_runner_pool import FakeSlot
from umbel.protocol.messages import Interruption, Outcome, Status


class FakeExecution:
    """A running bundle; ``notes``: what the supervisor did with it."""

    def __init__(self, job: Job, began: float):
        self.job, self.began, self.stop_reason = job, began, None
        self.notes: list[Any] = []

    def skip(self, task_ids: set[str]) -> None:
        self.notes.append(("skip", task_ids))

    def close(self, now: float, keep: int = 1) -> None:
        self.notes.append(("close", now, keep))

    def runner_died(self, how: str, *, code: str | None) -> list[Outcome]:
        return [Outcome(c.task_id, 1, Status.LOST, code=code, message=how) for c in self.job.bundle.calls]

    def abandon(self, message: str) -> list[Outcome]:
        return [Outcome(c.task_id, 1, Status.LOST, message=message) for c in self.job.bundle.calls]


class Runner(FakeSlot):
    """A fake runner with a socket that can be watched."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.sock, self.far = socket.socketpair()  # type: ignore[assignment]
        self.process.pid = 1000 + self.number
        self.process.close = self._close
        self.reads: list[tuple[list[Outcome], bool]] = []
        self.checks: list[list[Outcome]] = []
        self.writes = 0
        self.error: Exception | None = None

    def _close(self, _: object) -> None:
        self.sock.close()
        self.far.close()

    def begin(self, job: Job, now: float) -> None:
        if self.error is not None:
            raise self.error
        if job.options is not None:
            self.options = job.options
        self.execution = FakeExecution(job, now)  # type: ignore[assignment]
        self.state, self.function = "busy", job.bundle.function.sha256

    def read(self, *, dead: bool = False) -> tuple[list[Outcome], bool]:
        if not dead:
            self.sock.recv(100)
        outcomes, finished = self.reads.pop(0) if self.reads else ([], False)
        if finished:
            self.state = "idle"
        return outcomes, finished

    def says(self, outcomes: list[Outcome], *, finished: bool = False) -> None:
        self.reads.append((outcomes, finished))
        self.far.send(b"1")

    def write(self) -> None:
        self.writes += 1
        self.has_unsent = False

    def check(self, now: float) -> list[Outcome]:
        return self.checks.pop(0) if self.checks else []


class Desk:
    """A supervisor that runs only when the test says ``turn``; ``seen``: what it delivered, in order."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, slots: int = 2):
        self.now = 1000.0
        self.runners: list[Runner] = []
        self.errors: list[Exception] = []
        self.seen: list[Any] = []
        clock = SimpleNamespace(monotonic=lambda: self.now, sleep=lambda _: None)
        monkeypatch.setattr(runner_pool, "Slot", self._start)
        monkeypatch.setattr(placement, "Slot", FakeSlot)
        for module in (runner_pool, supervisors):
            monkeypatch.setattr(module, "time", clock)
        self.options = RunnerOptions(folder, key="red", warm_runners=0)
        self.supervisor = Supervisor(self.options, slots, self._sink, self._notify)
        self.pool: Any = self.supervisor._pool
        self.check()
        for runner in self.runners:
            runner.ready()

    def _start(self, *args: Any) -> Runner:
        if self.errors:
            raise self.errors.pop(0)
        self.runners.append(Runner(*args))
        return self.runners[-1]

    def _sink(self, bundle_id: str, outcomes: list[Outcome]) -> None:
        self.seen.append((bundle_id, [outcome.code or outcome.status for outcome in outcomes]))

    def _notify(self, callbacks: list[Callable[[], None]]) -> None:
        for callback in callbacks:
            callback()

    def turn(self) -> None:
        self.supervisor._commands.put(lambda: None)  # so that it does not wait
        self.supervisor._iterate()

    def check(self) -> None:
        self.supervisor._next_check = 0.0
        self.turn()

    def job(self, calls: int = 1, *, options: RunnerOptions | None = None, cores: int | None = None) -> Job:
        bundle, function = make_bundle(abs, [(number,) for number in range(calls)], cores=cores)
        job = Job(
            bundle,
            function,
            lambda bundle_id, pid: self.seen.append(("accepted", bundle_id, pid)),
            lambda: self.seen.append(("done", bundle.id)),
            lambda how: self.seen.append(("broken", bundle.id, how)),
            options=options,
        )
        self.supervisor.submit(job)
        return job

    def running(self, calls: int = 1) -> tuple[Job, Runner]:
        job = self.job(calls)
        self.turn()
        (runner,) = [each for each in self.runners if each.execution and each.execution.job is job]
        self.seen.clear()
        return job, runner

    def close(self) -> None:
        for runner in self.runners:
            runner.how = "stopped"
        self.supervisor._end()
        self.supervisor._loop()


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    desk = Desk(tmp_path, monkeypatch)
    yield desk
    desk.close()


def ended(job: Job, status: str = Status.SUCCEEDED) -> list[Outcome]:
    return [Outcome(call.task_id, call.attempt, status) for call in job.bundle.calls]


def returned(job: Job) -> list[Any]:
    """What is delivered of a bundle of which no call runs."""
    return [
        (job.bundle.id, ["returned"] * len(job.bundle.calls)),
        ("accepted", "", 0),
        ("done", job.bundle.id),
    ]


def test_a_bundle_runs_from_its_submission_to_its_last_outcome(desk: Desk) -> None:
    job = desk.job(2)
    assert desk.supervisor.held == [job.bundle.id] and not desk.supervisor.waiting
    desk.turn()
    (runner,) = [each for each in desk.runners if each.execution]
    assert desk.seen == [("accepted", job.bundle.id, runner.process.pid)]
    assert (desk.supervisor.busy, desk.supervisor.slots, desk.supervisor.waiting) == (1, 2, 0)
    first, second = ended(job)
    runner.says([first])
    desk.turn()
    assert desk.seen[1:] == [(job.bundle.id, ["succeeded"])] and runner.execution is not None
    runner.says([second], finished=True)
    desk.turn()
    assert desk.seen[2:] == [(job.bundle.id, ["succeeded"]), ("done", job.bundle.id)]
    assert not desk.supervisor.held and not desk.supervisor.busy and not runner.process.killed


def test_a_bundle_is_listed_before_its_command_wakes_the_loop(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[list[str]] = []
    with monkeypatch.context() as patched:
        patched.setattr(desk.supervisor._commands, "put", lambda _: held.append(desk.supervisor.held))
        job = desk.job()
    assert held == [[job.bundle.id]]
    commands = desk.supervisor._commands.sock
    assert desk.supervisor._selector.get_key(commands).events == selectors.EVENT_READ


def test_a_runner_that_is_ready_at_last_takes_the_bundle_that_waited_for_it(desk: Desk) -> None:
    for runner in desk.runners:
        runner.state = "starting"
    job = desk.job()
    desk.turn()
    desk.now += placement.WAIT_FOR_RUNNER + 1.0
    desk.runners[0].ready()
    desk.check()
    assert desk.seen == [("accepted", job.bundle.id, desk.runners[0].process.pid)]


def test_the_next_bundle_starts_before_the_outcomes_of_the_last_are_delivered(desk: Desk) -> None:
    desk.running()
    job, runner = desk.running()
    waiting = desk.job()
    desk.turn()
    assert desk.supervisor.waiting == 1 and desk.supervisor.held[-1] == waiting.bundle.id
    runner.says(ended(job), finished=True)
    started: list[bool] = []
    desk._sink = lambda *_: started.append(runner.execution is not None)  # type: ignore[method-assign]
    desk.supervisor._accepted._sink = lambda *_: desk._sink(*_)
    desk.turn()
    assert started == [True] and runner.execution is not None and runner.execution.job is waiting


def test_a_runner_that_is_due_is_replaced_after_its_bundle(desk: Desk) -> None:
    job, runner = desk.running()
    runner.due = True
    runner.says(ended(job), finished=True)
    desk.turn()
    assert runner.process.killed and desk.seen[-1] == ("done", job.bundle.id)
    runner.how = "ended"
    desk.turn()
    desk.check()
    assert runner not in desk.pool.slots and len(desk.pool.slots) == 2


def test_what_a_runner_has_not_read_is_written_when_it_can_be(desk: Desk) -> None:
    _, runner = desk.running()
    runner.has_unsent = True
    desk.pool.register(runner)
    desk.turn()
    assert runner.writes == 1 and not runner.has_unsent
    desk.turn()
    assert runner.writes == 1
    assert desk.supervisor._selector.get_key(runner.sock).events == selectors.EVENT_READ


def test_an_idle_runner_may_say_that_it_is_ready(desk: Desk) -> None:
    desk.runners[0].says([])
    desk.turn()
    assert not desk.runners[0].reads and not desk.runners[0].process.killed


def test_a_runner_that_was_too_fast_is_read_again_after_its_items_are_reported(desk: Desk) -> None:
    job, runner = desk.running()
    runner.backlogged = True
    desk.pool.register(runner)
    runner.says(ended(job), finished=True)
    desk.turn()
    assert runner.reads

    def check(_: float) -> list[Outcome]:
        runner.backlogged = False
        return []

    runner.check = check  # type: ignore[method-assign]
    desk.check()
    desk.turn()
    assert not runner.reads and desk.seen[-1] == ("done", job.bundle.id)


def test_a_closed_socket_is_looked_into_at_once(desk: Desk) -> None:
    job, runner = desk.running()
    desk.now += 0.001
    runner.far.send(b"1")
    runner.eof, runner.how = True, "the runner was killed by SIGKILL"
    desk.turn()
    assert desk.seen == [(job.bundle.id, ["lost"]), ("done", job.bundle.id)]
    assert runner not in desk.pool.slots and not desk.supervisor.held


def test_the_next_look_is_as_soon_as_something_may_change(desk: Desk) -> None:
    def interval() -> float:
        return desk.supervisor._interval(desk.now)

    assert interval() == 1.0
    _, runner = desk.running()
    assert interval() == TICK
    desk.now += 1.0
    assert interval() == SLOW_TICK
    desk.running()
    assert interval() == TICK, "the youngest one counts"
    runner.needs_check = True
    assert interval() == LIMIT_DELAY
    runner.needs_check = False
    desk.now += 1.0
    assert interval() == SLOW_TICK
    for each in desk.runners:
        each.execution, each.state = None, "idle"
    assert interval() == 1.0
    desk.runners[0].state = "starting"
    assert interval() == SLOW_TICK
    desk.runners[0].state = "idle"
    desk.job(cores=3)
    desk.turn()
    assert desk.supervisor.waiting and interval() == SLOW_TICK


def test_the_loop_waits_until_the_next_look(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(desk.supervisor._selector, "select", lambda seconds: waits.append(seconds) or [])
    for next_check in (desk.now + 0.25, desk.now - 5.0):
        desk.supervisor._next_check = next_check
        desk.supervisor._iterate()
    assert waits == [0.25, 0.0]


def test_looks_happen_no_sooner_than_due(desk: Desk) -> None:
    job, runner = desk.running()
    desk.check()
    runner.checks = [ended(job)]
    desk.now += TICK / 2
    desk.turn()
    assert not desk.seen
    desk.now += TICK / 2
    desk.turn()
    assert desk.seen == [(job.bundle.id, ["succeeded"])]


def test_a_bundle_that_starts_or_arrives_is_looked_at_soon(desk: Desk) -> None:
    desk.check()
    assert desk.supervisor._next_check == desk.now + 1.0
    desk.running()
    assert desk.supervisor._next_check == desk.now + TICK
    desk.running()
    desk.supervisor._next_check = desk.now + 1.0
    desk.job()
    desk.turn()
    assert desk.supervisor._next_check == desk.now + SLOW_TICK


def test_a_slot_that_loses_its_runner_is_filled_at_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.check()
    desk.pool.vacated = True
    desk.turn()
    assert desk.supervisor._next_check == 0.0


def test_a_runner_that_died_ends_its_bundle_and_says_how(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.running()
    job, runner = desk.running(2)
    waiting = desk.job()
    desk.turn()
    desk.seen.clear()
    first, second = ended(job)
    runner.reads = [([first], False)]
    runner.how = "exit code 3"
    desk.check()
    assert desk.seen == [(job.bundle.id, ["succeeded", "lost", "lost"]), ("done", job.bundle.id)]
    assert "exit code 3" in caplog.text and "abs" in caplog.text
    assert waiting.bundle.id in desk.supervisor.held, "it waits for another runner"
    caplog.clear()
    desk.runners[-1].ready()
    desk.turn()
    job, runner = waiting, desk.runners[-1]
    desk.seen.clear()
    runner.reads, runner.how = [(ended(job), True)], "exit code 3"
    assert runner.execution is not None
    runner.execution.stop_reason = "cancelled"
    desk.check()
    assert desk.seen == [(job.bundle.id, ["succeeded"]), ("done", job.bundle.id)]
    assert not caplog.records, "it was stopped"


def test_a_dead_runner_that_cannot_be_read_ends_its_bundle(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, runner = desk.running()
    runner.how = "exit code 3"

    def fail(**_: Any) -> Any:
        raise ValueError("garbage")

    monkeypatch.setattr(runner, "read", fail)
    desk.check()
    assert desk.seen == [(job.bundle.id, ["lost"]), ("done", job.bundle.id)]
    assert runner not in desk.pool.slots


def test_runners_end_in_time(desk: Desk) -> None:
    idle, other = desk.runners
    idle.end_by = desk.now + 2.0
    desk.now += 2.0
    desk.check()
    assert not idle.process.killed
    desk.now += 0.1
    desk.check()
    assert idle.process.killed and not other.process.killed


@pytest.mark.parametrize("retiring", [False, True])
def test_an_environment_that_does_not_start_fails_what_waits_for_it(desk: Desk, retiring: bool) -> None:
    desk.running(), desk.running()
    blue = RunnerOptions(desk.options.directory, key="blue")
    hit, other = desk.job(options=blue), desk.job()
    desk.turn()
    desk.seen.clear()
    broken = desk.runners[0]
    broken.options, broken.environment_broken, broken.retiring = blue, True, retiring
    broken.execution, broken.how = None, "no such library"
    desk.check()
    failed = [
        (hit.bundle.id, ["ENVIRONMENT_ERROR"]),
        ("accepted", "", 0),
        ("done", hit.bundle.id),
        ("broken", hit.bundle.id, "no such library"),
    ]
    assert desk.seen == ([] if retiring else failed)
    assert (hit.bundle.id in desk.supervisor.held) == retiring and other.bundle.id in desk.supervisor.held


def test_an_interpreter_that_is_missing_fails_what_waits_for_it(desk: Desk) -> None:
    desk.running(), desk.running()
    blue = RunnerOptions(desk.options.directory, key="blue", for_environment=True)
    hit = desk.job(options=blue)
    desk.turn()
    desk.seen.clear()
    desk.pool.unstartable = blue.fresh, "no interpreter"
    desk.check()
    assert desk.seen[0] == (hit.bundle.id, ["ENVIRONMENT_ERROR"])
    assert desk.seen[-1] == ("broken", hit.bundle.id, "no interpreter") and desk.pool.unstartable is None


def test_calls_are_cancelled_where_they_are(desk: Desk) -> None:
    first, one = desk.running(2)
    _, two = desk.running()
    waiting = desk.job(2)
    desk.turn()
    wanted = {first.bundle.calls[1].task_id, waiting.bundle.calls[0].task_id, "another"}
    desk.supervisor.cancel(iter(sorted(wanted)))
    desk.turn()
    assert one.execution.notes == two.execution.notes == [("skip", wanted)]  # type: ignore[attr-defined]
    assert waiting.cancelled == {waiting.bundle.calls[0].task_id}
    desk.supervisor.cancel_bundle(first.bundle.id)
    desk.supervisor.cancel_bundle("unknown")
    desk.turn()
    ids = {call.task_id for call in first.bundle.calls}
    assert one.execution.notes[1:] == [("skip", ids)]  # type: ignore[attr-defined]
    assert len(desk.supervisor._queue._cancelled) == 4
    desk.now += 3601.0
    desk.check()
    assert not desk.supervisor._queue._cancelled


def test_a_cancellation_is_acted_on_in_the_same_turn(desk: Desk) -> None:
    _, runner = desk.running()
    desk.check()
    looks: list[float] = []
    runner.check = lambda now: looks.append(now) or []  # type: ignore[func-returns-value,method-assign]
    desk.supervisor.cancel(["another"])
    desk.turn()
    assert looks


def test_draining_returns_what_waits_and_lets_running_calls_continue(desk: Desk) -> None:
    job, runner = desk.running()
    _, other = desk.running()
    waiting, given_back = desk.job(), desk.job()
    desk.turn()
    desk.supervisor._return(given_back, "it waited")
    desk.seen.clear()
    parked: list[bool] = []
    desk.pool.parking.clear = lambda: parked.append(True)
    drained = desk.supervisor.drain(10.0, Interruption.WALLTIME)
    desk.turn()
    waits = [("accepted", "", 0), ("done", given_back.bundle.id)]
    assert desk.seen == [returned(waiting)[0], *returned(waiting)[1:], *waits]
    assert runner.execution.notes == [("close", desk.now, 0)]  # type: ignore[attr-defined]
    assert parked and not desk.supervisor.waiting and not drained.is_set()
    late = desk.job()
    desk.turn()
    assert desk.seen[len(waits) + 3 :] == returned(late)
    # in time
    runner.says(ended(job), finished=True)
    desk.turn()
    desk.now += 9.9
    desk.check()
    assert not drained.is_set() and not other.process.killed
    desk.now += 0.2
    desk.check()
    assert other.process.killed and not runner.process.killed, "an idle runner may stay"
    desk.seen.clear()
    other.how = "killed by SIGKILL"
    desk.check()
    assert desk.seen[0][1] == [Interruption.WALLTIME] and drained.is_set()
    assert len(desk.pool.slots) == 1 and len(desk.runners) == 2, "no runner is started"


def test_a_drain_without_time_stops_running_calls_at_once(desk: Desk) -> None:
    _, runner = desk.running()
    desk.check()
    desk.supervisor.drain(0.0)
    desk.turn()
    assert runner.process.killed


def test_a_drain_may_be_shortened_but_not_extended(desk: Desk) -> None:
    _, runner = desk.running()
    desk.supervisor.drain(10.0, Interruption.WALLTIME)
    desk.supervisor.drain(20.0, Interruption.STOPPED)
    desk.turn()
    assert desk.supervisor._drain_until == desk.now + 10.0
    assert desk.supervisor._stop_code == Interruption.WALLTIME
    desk.supervisor.drain(5.0)
    desk.turn()
    assert desk.supervisor._drain_until == desk.now + 5.0
    assert desk.supervisor._stop_code == Interruption.STOPPED


def test_a_node_without_bundles_is_drained_at_once(desk: Desk) -> None:
    desk.turn()
    assert not desk.supervisor._drained.is_set()
    assert not desk.supervisor.drain(10.0).is_set()
    desk.turn()
    assert desk.supervisor._drained.is_set()


def test_bundles_behind_long_calls_are_returned_but_keep_their_places(desk: Desk) -> None:
    (_, one), _ = desk.running(), desk.running()
    waiting = desk.job(2)
    desk.turn()
    desk.seen.clear()
    desk.now += placement.WAIT_FOR_SLOT + 0.1
    desk.check()
    assert desk.seen == returned(waiting)[:1] and not desk.supervisor.held[2:]
    assert desk.supervisor.waiting == 1
    assert one.execution is not None
    one.says(ended(one.execution.job), finished=True)
    desk.turn()
    assert one.execution is None, "a returned bundle does not run"
    assert desk.seen[1:3] == returned(waiting)[1:] or returned(waiting)[1] in desk.seen
    assert not desk.supervisor.waiting


def test_commands_for_the_number_and_the_age_of_runners(desk: Desk) -> None:
    desk.supervisor.resize(2)
    desk.turn()
    desk.check()
    assert desk.supervisor.slots == 4 and len(desk.runners) == 4
    desk.supervisor.replace_all()
    desk.turn()
    assert all(runner.retiring for runner in desk.runners)


def test_a_bundle_for_several_slots_gets_options_of_its_own(desk: Desk) -> None:
    job = desk.job(cores=2)
    desk.turn()
    assert job.options is not None and job.options.cores == 2
    assert sorted(map(str, desk.supervisor.keys)) == sorted([str(("red", 2)), "red", "red"])


def test_what_a_supervisor_says_of_itself(desk: Desk) -> None:
    assert desk.supervisor.problem == ""
    desk.pool.problem = "no memory"
    assert desk.supervisor.problem == "no memory"
    assert desk.supervisor.keys == ["red", "red"]


def test_an_error_of_an_idle_slot_ends_its_runner(desk: Desk) -> None:
    def fail() -> None:
        raise ValueError("a bug")

    desk.supervisor._for_slot(desk.runners[0], fail)  # type: ignore[arg-type]
    assert [runner.process.killed for runner in desk.runners] == [True, False]
    job, runner = desk.running()
    desk.supervisor._for_slot(runner, fail)  # type: ignore[arg-type]
    assert runner.process.killed and runner.execution is None and not desk.supervisor.held
    assert desk.seen == [(job.bundle.id, ["lost"])]


def test_a_bundle_that_cannot_be_sent_ends_and_is_accepted_once(desk: Desk) -> None:
    for runner in desk.runners:
        runner.error = OSError("no memory")
    job = desk.job()
    desk.turn()
    assert desk.seen == [(job.bundle.id, ["lost"]), ("accepted", "", 0), ("done", job.bundle.id)]
    assert [runner.process.killed for runner in desk.runners].count(True) == 1


@pytest.mark.parametrize("place", ["queue", "pool"])
def test_a_bundle_that_cannot_be_placed_ends(desk: Desk, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("a bug")

    with monkeypatch.context() as patched:
        if place == "queue":
            patched.setattr(desk.supervisor._queue, "add", fail)
        else:
            patched.setattr(desk.pool, "choose", fail)
        job = desk.job()
        desk.turn()
    assert desk.seen == [(job.bundle.id, ["lost"]), ("accepted", "", 0), ("done", job.bundle.id)]
    assert not desk.supervisor.held and not desk.supervisor.waiting
    assert not any(runner.process.killed for runner in desk.runners)
    desk.running()


def test_a_bundle_that_is_sent_in_parts_is_sent_to_its_end(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = Runner.begin

    def partly(runner: Runner, job: Job, now: float) -> None:
        begin(runner, job, now)
        runner.has_unsent = True

    monkeypatch.setattr(Runner, "begin", partly)
    _, runner = desk.running()
    desk.turn()
    assert runner.writes == 1


def test_the_loop_outlives_an_error_and_ends_with_all_that_it_opened(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = [ValueError("a bug")]
    iterate = desk.supervisor._iterate

    def flawed() -> None:
        if errors:
            raise errors.pop()
        iterate()

    monkeypatch.setattr(desk.supervisor, "_iterate", flawed)
    for runner in desk.runners:
        runner.how = "stopped"
    desk.supervisor.start()
    wait_until(lambda: not errors, what="the error")
    assert desk.supervisor.is_alive()
    desk.supervisor.stop()
    assert not desk.supervisor.is_alive() and not desk.pool.slots
    assert desk.supervisor._commands.sock.fileno() == -1
    assert desk.supervisor._selector.get_map() is None
    monkeypatch.setattr(desk, "close", lambda: None)
