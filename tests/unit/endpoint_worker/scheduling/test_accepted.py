"""Each accepted bundle ends once: its outcomes first, then its callbacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from endpoint_worker.runners.job import Job
from endpoint_worker.scheduling.accepted import AcceptedBundles
from tests.unit.endpoint_worker.bench import make_bundle
from umbel.protocol.messages import Outcome, Status


class Watched:
    """Accepted bundles, and in ``seen`` what was delivered, in order."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.error: Exception | None = None
        self.accepted = AcceptedBundles(self._sink, self._notify)

    def _sink(self, bundle_id: str, outcomes: list[Outcome]) -> None:
        if self.error is not None:
            raise self.error
        self.seen.append([outcome.status for outcome in outcomes])
        self.seen.append("held" if bundle_id in self.accepted.ids else "gone")

    def _notify(self, callbacks: list[Callable[[], None]]) -> None:
        assert callbacks
        for callback in callbacks:
            callback()

    def job(self) -> Job:
        bundle, function = make_bundle(abs, [(1,), (2,)])
        job = Job(
            bundle,
            function,
            lambda bundle_id, pid: self.seen.append(("accepted", bundle_id == bundle.id, pid)),
            lambda: self.seen.append("done"),
            lambda how: self.seen.append(("broken", how)),
        )
        self.accepted.add(job)
        return job


@pytest.fixture
def watched() -> Watched:
    return Watched()


def outcomes(job: Job, status: str = Status.SUCCEEDED) -> list[Outcome]:
    return [Outcome(call.task_id, call.attempt, status) for call in job.bundle.calls]


def test_a_bundle_is_listed_until_its_last_outcomes_are_delivered(watched: Watched) -> None:
    job = watched.job()
    watched.accepted.started(job, 7)
    watched.accepted.emit(job, [])
    watched.accepted.end_later(job, outcomes(job))
    assert watched.seen == [] and watched.accepted and watched.accepted.get(job.bundle.id) is job
    watched.accepted.flush()
    assert watched.seen == [[Status.SUCCEEDED] * 2, "held", ("accepted", True, 7), "done"]
    assert not watched.accepted and watched.accepted.get(job.bundle.id) is None
    watched.accepted.flush()
    assert len(watched.seen) == 4


def test_a_bundle_ends_although_its_outcomes_cannot_be_delivered(watched: Watched) -> None:
    watched.error = OSError("no room")
    job = watched.job()
    watched.accepted.end(job, outcomes(job))
    watched.accepted.flush()
    assert watched.seen == ["done"] and not watched.accepted


def test_a_returned_bundle_keeps_its_callbacks_until_it_is_discarded(watched: Watched) -> None:
    job = watched.job()
    job.cancelled.add(job.bundle.calls[1].task_id)
    watched.accepted.give_back(job, "busy")
    watched.accepted.flush()
    assert watched.seen == [[Status.RETURNED, Status.SKIPPED], "held"] and not watched.accepted
    watched.accepted.discard(job)
    watched.accepted.flush()
    assert watched.seen[2:] == [("accepted", False, 0), "done"]


def test_a_refused_bundle_fails_and_says_why(watched: Watched) -> None:
    job = watched.job()
    watched.accepted.refuse(job, "ENVIRONMENT_ERROR", "no interpreter")
    watched.accepted.flush()
    assert watched.seen == [
        [Status.FAILED] * 2,
        "held",
        ("accepted", False, 0),
        "done",
        ("broken", "no interpreter"),
    ]
    assert job.failed == 2 and job.first_code == "ENVIRONMENT_ERROR" and not watched.accepted


@pytest.mark.parametrize("accepted", [True, False])
def test_an_abandoned_bundle_is_lost_once(watched: Watched, accepted: bool) -> None:
    job = watched.job()
    for _ in range(2):
        watched.accepted.abandon(job, ValueError("defect"), accepted=accepted)
    watched.accepted.flush()
    callbacks = ["done"] if accepted else [("accepted", False, 0), "done"]
    assert watched.seen == [[Status.LOST] * 2, "held", *callbacks]
