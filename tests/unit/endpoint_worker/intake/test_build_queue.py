"""Bundles that wait for an environment: each gets an outcome, whatever goes wrong."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from endpoint_worker.environments.store import Built, Store
from endpoint_worker.intake import build_queue
from endpoint_worker.intake.build_queue import BuildQueue
from endpoint_worker.runners.job import Job
from tests.support.wait import wait_until
from tests.unit.endpoint_worker.bench import make_bundle
from umbel.protocol.environment import Environment
from umbel.system import threads

ENVIRONMENT = Environment(("numpy",))


class Builder:
    """Raises ``error``, or builds an empty environment."""

    def __init__(self, error: BaseException | None = None):
        self.error = error

    def make(self, environment: Environment, folder: Path, lock: int) -> tuple[str, str]:
        if self.error is not None:
            raise self.error
        folder.mkdir(parents=True)
        (folder / "python").touch()
        return str(folder / "python"), str(folder)

    def stop(self) -> None:
        """There is nothing to stop."""


class Desk:
    """A build queue and what became of its bundles."""

    def __init__(self, folder: Path, builder: Builder):
        self.ran: list[str] = []
        self.failed: dict[str, str] = {}
        self.returned: dict[str, str] = {}
        self.error: Exception | None = None
        self.queue = BuildQueue(Store(folder), builder, self._run, self._fail, self._return)  # type: ignore

    def _run(self, job: Job, built: Built) -> None:
        error, self.error = self.error, None
        if error is not None:
            raise error
        self.ran.append(job.bundle.id)

    def _fail(self, job: Job, why: str) -> None:
        self.failed[job.bundle.id] = why

    def _return(self, job: Job, why: str) -> None:
        self.returned[job.bundle.id] = why

    def add(self) -> str:
        job = Job(*make_bundle(pow, [(2, 3)]))
        self.queue.add(job, ENVIRONMENT)
        return job.bundle.id


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
