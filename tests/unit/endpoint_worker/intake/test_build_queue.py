"""Bundles that wait for an environment: each gets an outcome, whatever goes wrong."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from endpoint_worker.environments.store import BuildError, Built, Interrupted, Store
from endpoint_worker.intake import build_queue
from endpoint_worker.intake.build_queue import BuildQueue
from endpoint_worker.runners.job import Job
from tests.support.wait import wait_until
from tests.unit.endpoint_worker.bench import make_bundle
from umbel.protocol.environment import Environment
from umbel.system import threads

ENVIRONMENT = Environment(("numpy",))


class Builder:
    """Raises ``error``, or builds an empty environment; not before ``released`` is set."""

    def __init__(self, error: BaseException | None = None):
        self.error = error
        self.released = threading.Event()
        self.released.set()
        self.started: list[Environment] = []
        self.ended = 0

    def make(self, environment: Environment, folder: Path, lock: int) -> tuple[str, str]:
        self.started.append(environment)
        self.released.wait(10)
        self.ended += 1
        if self.error is not None:
            raise self.error
        folder.mkdir(parents=True)
        (folder / "python").touch()
        return str(folder / "python"), str(folder)

    def stop(self) -> None:
        """End the builds that run."""
        self.error = Interrupted()
        self.released.set()


class Desk:
    """A build queue and what became of its bundles."""

    def __init__(self, folder: Path, builder: Builder):
        self.ran: list[str] = []
        self.failed: dict[str, str] = {}
        self.returned: dict[str, str] = {}
        self.error: Exception | None = None
        self.builder, self.store = builder, Store(folder)
        self.queue = BuildQueue(self.store, builder, self._run, self._fail, self._return)  # type: ignore

    def _run(self, job: Job, built: Built) -> None:
        error, self.error = self.error, None
        if error is not None:
            raise error
        self.ran.append(job.bundle.id)

    def _fail(self, job: Job, why: str) -> None:
        self.failed[job.bundle.id] = why

    def _return(self, job: Job, why: str) -> None:
        self.returned[job.bundle.id] = why

    def add(self, environment: Environment = ENVIRONMENT) -> str:
        return self.add_job(environment).bundle.id

    def add_job(self, environment: Environment = ENVIRONMENT) -> Job:
        job = Job(*make_bundle(pow, [(2, 3), (3, 4)]))
        self.queue.add(job, environment)
        return job

    @property
    def builds(self) -> dict[str, build_queue._Build]:
        return self.queue._builds


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path, Builder())
    yield desk
    desk.queue.close()


@pytest.fixture
def held(desk: Desk) -> Desk:
    """A desk whose builds wait."""
    desk.builder.released.clear()
    return desk


@pytest.mark.parametrize(
    "error", [ValueError("embedded null byte"), SystemExit(1)], ids=lambda error: type(error).__name__
)
def test_a_build_that_fails_unexpectedly_fails_its_bundles(tmp_path: Path, error: BaseException) -> None:
    desk = Desk(tmp_path, Builder(error))
    try:
        bundle = desk.add()
        wait_until(lambda: bundle in desk.failed, what="the bundle's outcome")
        assert type(error).__name__ in desk.failed[bundle] and not desk.queue.held
    finally:
        desk.queue.close()


def test_a_bundle_that_is_being_returned_at_the_end_is_held(tmp_path: Path) -> None:
    """Otherwise it would be nowhere for a moment, and the service would believe it lost."""
    builder = Slow()
    desk = Desk(tmp_path, builder)  # type: ignore[arg-type]
    bundle = desk.add()
    seen: list[list[str]] = []
    builder.stopped = lambda: seen.append(desk.queue.held)
    desk.queue._return_job = lambda job, why: seen.append(desk.queue.held)
    desk.queue.close()
    assert seen == [[bundle]] * 2 and not desk.queue.held


class Slow(Builder):
    """A build that lasts until the builder is stopped."""

    def __init__(self) -> None:
        super().__init__()
        self._end = threading.Event()
        self.stopped: Any = None

    def make(self, environment: Environment, folder: Path, lock: int) -> tuple[str, str]:
        self._end.wait(10)
        return super().make(environment, folder, lock)

    def stop(self) -> None:
        self.stopped()
        self._end.set()


def test_a_bundle_that_cannot_be_handed_over_keeps_no_other_waiting(tmp_path: Path) -> None:
    desk = Desk(tmp_path, Builder())
    try:
        desk.error = RuntimeError("a bug")
        bundles = [desk.add(), desk.add()]
        wait_until(lambda: not desk.queue.held, what="all outcomes")
        assert len(desk.ran) == len(desk.failed) == 1
        assert {*desk.ran, *desk.failed} == set(bundles)
    finally:
        desk.queue.close()


def test_the_thread_that_delivers_outlives_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(build_queue, "FIRST_WAIT", 0.0)
    desk = Desk(tmp_path, Builder())
    errors = [RuntimeError("a bug")]
    deliver = desk.queue._deliver

    def flawed(*args: Any) -> None:
        if errors:
            raise errors.pop()
        deliver(*args)

    monkeypatch.setattr(desk.queue, "_deliver", flawed)
    try:
        bundle = desk.add()
        wait_until(lambda: desk.ran == [bundle], what="the bundle runs")
        assert not errors
    finally:
        desk.queue.close()


def test_bundles_run_in_the_order_of_their_arrival_when_their_environment_is_built(held: Desk) -> None:
    bundles = [held.add() for _ in range(3)]
    assert held.queue.held == bundles and not held.ran
    held.builder.released.set()
    wait_until(lambda: held.ran == bundles, what="all bundles run")
    assert held.builder.started == [ENVIRONMENT], "it is built once"
    wait_until(lambda: not held.builds, what="nothing waits")
    assert not held.failed and not held.returned


def test_an_environment_that_exists_is_used_at_once(desk: Desk) -> None:
    first = desk.add()
    wait_until(lambda: desk.ran == [first] and not desk.builds, what="the bundle runs")
    second = desk.add()
    assert desk.ran == [first, second] and not desk.queue.held
    other = Desk(desk.store.directory, Builder())  # the next worker
    third = other.add()
    assert other.ran == [third] and other.queue._pool is None and not other.builder.started
    other.queue.close()


def test_environments_are_built_side_by_side(held: Desk) -> None:
    many = [Environment((f"package-{number}",)) for number in range(build_queue.BUILDERS + 1)]
    for environment in many:
        held.add(environment)
    wait_until(lambda: len(held.builder.started) == build_queue.BUILDERS, what="the builds")
    threads = [each.name for each in threading.enumerate()]
    assert threads.count("umbel-environments") == 1
    held.builder.released.set()
    wait_until(lambda: len(held.ran) == len(many), what="all bundles run")
    assert sorted(held.builder.started, key=str) == sorted(many, key=str)


@pytest.mark.parametrize(
    ("error", "why"),
    [(BuildError("no such package"), "no such package"), (OSError("disk"), "disk"), (OSError(), "")],
    ids=["build", "system", "nameless"],
)
def test_a_failed_build_says_why(tmp_path: Path, error: Exception, why: str) -> None:
    desk = Desk(tmp_path, Builder(error))
    bundle = desk.add()
    wait_until(lambda: bundle in desk.failed, what="the bundle's outcome")
    assert why in desk.failed[bundle] and desk.failed[bundle]
    assert not desk.ran and not desk.returned
    desk.queue.close()


def test_a_cancelled_call_waits_with_its_bundle_and_is_marked(held: Desk) -> None:
    jobs = [held.add_job() for _ in range(2)]
    wanted = jobs[1].bundle.calls[1].task_id
    held.queue.cancel(iter([wanted, "another"]))
    assert [job.cancelled for job in jobs] == [set(), {wanted}]


def test_closing_returns_what_waits_and_stops_the_builds(held: Desk) -> None:
    bundles = [held.add(), held.add(Environment(("scipy",))), held.add()]
    wait_until(lambda: held.builder.started, what="a build")
    held.queue.close()
    assert set(held.returned) == set(bundles) and all(held.returned.values())
    assert isinstance(held.builder.error, Interrupted), "it was stopped"
    late = held.add()
    assert held.returned[late] and not held.queue.held
    for thread in (held.queue._thread, *held.queue._pool._threads):  # type: ignore[union-attr]
        thread.join(10)  # type: ignore[union-attr]
        assert not thread.is_alive()  # type: ignore[union-attr]
    assert not held.ran and not held.failed
    assert len(held.builder.started) <= build_queue.BUILDERS


def test_a_closed_queue_starts_no_build_that_waited_for_a_place(held: Desk) -> None:
    for number in range(build_queue.BUILDERS + 3):
        held.add(Environment((f"package-{number}",)))
    wait_until(lambda: len(held.builder.started) == build_queue.BUILDERS, what="the builds")
    pool = held.queue._pool
    assert pool is not None
    held.queue.close()
    pool.shutdown(wait=True)
    assert len(held.builder.started) == build_queue.BUILDERS
    assert len(held.returned) == build_queue.BUILDERS + 3


def test_closing_does_not_wait_for_a_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    builder = Builder()
    builder.released.clear()
    desk = Desk(tmp_path, builder)
    bundle = desk.add()
    wait_until(lambda: builder.started, what="the build")
    monkeypatch.setattr(builder, "stop", lambda: None)
    desk.queue.close()
    assert not builder.ended and list(desk.returned) == [bundle]
    builder.released.set()


def test_all_bundles_but_one_are_returned_while_an_environment_is_built(held: Desk) -> None:
    first, second, third = held.add(), held.add(), held.add()
    wait_until(lambda: held.builder.started, what="the build")
    (build,) = held.builds.values()
    before = time.monotonic()
    assert all(before - 60 < job.arrived <= before for job in build.jobs)
    with held.queue._lock:
        assert not held.returned and build.wait == build_queue.FIRST_WAIT
        build.jobs[1].arrived -= build.wait + 0.1
        held.queue._return_others(build)
        assert list(held.returned) == [second, third] and held.queue.held == [first]
        assert build.wait == 2 * build_queue.FIRST_WAIT
        build.jobs[0].arrived -= 3600
        held.queue._return_others(build)  # the first one stays, however long it takes
        fourth = held.add()
        held.queue._return_others(build)
        assert held.queue.held == [first, fourth] and len(held.returned) == 2
        build.wait = build_queue.LONGEST_WAIT
        build.jobs[1].arrived -= build.wait + 0.1
        held.queue._return_others(build)
        assert held.queue.held == [first] and build.wait == build_queue.LONGEST_WAIT
    held.builder.released.set()
    wait_until(lambda: held.ran == [first], what="the first bundle runs")


def test_bundles_are_returned_by_the_thread_that_waits_for_the_build(held: Desk) -> None:
    first, second = held.add(), held.add()
    (build,) = held.builds.values()
    with held.queue._lock:
        build.jobs[1].arrived -= 60.0
    wait_until(lambda: list(held.returned) == [second], what="the second bundle")
    assert held.queue.held == [first]


def test_an_environment_that_does_not_work_is_not_used_again(desk: Desk) -> None:
    first = desk.add()
    wait_until(lambda: desk.ran == [first] and not desk.builds, what="the bundle runs")
    desk.queue.mark_broken(ENVIRONMENT.digest, "its Python crashes")
    second = desk.add()
    wait_until(lambda: second in desk.failed, what="the bundle's outcome")
    assert "its Python crashes" in desk.failed[second] and desk.ran == [first]


def test_an_environment_that_is_removed_at_once_returns_its_bundles(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk.store, "lease", lambda _: None)
    bundle = desk.add()
    wait_until(lambda: bundle in desk.returned, what="the bundle")
    assert "cache" in desk.returned[bundle] and not desk.failed


def test_an_environment_that_cannot_be_used_fails_its_bundles(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.builder.released.clear()
    bundle = desk.add()

    def lease(_: str) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(desk.store, "lease", lease)
    desk.builder.released.set()
    wait_until(lambda: bundle in desk.failed, what="the bundle")
    assert "a bug" in desk.failed[bundle] and not desk.returned


@pytest.mark.parametrize("way", ["built", "existing"])
def test_an_unused_environment_is_released_after_a_while(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    bundle = desk.add()
    wait_until(lambda: desk.ran == [bundle] and not desk.builds, what="the bundle runs")
    digest = ENVIRONMENT.digest
    now = [desk.queue._used[digest]]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    if way == "existing":
        now[0] += 1000.0
        desk.add()
    look: Callable[..., None] = desk.queue.release_unused
    now[0] += build_queue.LEASE - 1
    look([])
    assert desk.store.leased() == [digest]
    now[0] += 2
    look(iter([digest]))
    assert desk.store.leased() == [digest]
    look(["another"])
    assert desk.store.leased() == []
