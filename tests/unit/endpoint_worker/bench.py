"""Runs bundles in real runner processes, without Celery and without a broker."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from endpoint_worker.runners.job import Job
from endpoint_worker.runners.process import RunnerOptions
from endpoint_worker.scheduling.supervisor import Supervisor
from tests.support.wait import wait_until
from umbel.protocol import names
from umbel.protocol.messages import Bundle, Call, FunctionRef, Outcome, RunOptions, Status
from umbel.serialize import dump_call, dump_function, load_result

ENDPOINT = "0b7d3c0e-0000-4000-8000-000000000001"


def make_bundle(
    function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], **options: Any
) -> tuple[Bundle, bytes]:
    """A bundle of calls of ``function``, and the function's bytes."""
    payloads = [dump_call(args, {}) for args in arguments]
    calls, offset = [], 0
    for task_id, payload in zip(names.new_task_ids(len(payloads), time.time()), payloads, strict=True):
        calls.append(Call(task_id, 1, offset, len(payload)))
        offset += len(payload)
    body = dump_function(function)
    ref = FunctionRef(names.new_id(), body.name, hashlib.sha256(body.data).hexdigest(), len(body.data))
    bundle = Bundle(
        names.new_id(), ENDPOINT, ref, calls, RunOptions(**options), user="ada", body=b"".join(payloads)
    )
    return bundle, body.data


class Running:
    """A bundle that was handed to the supervisor."""

    def __init__(self, bench: Bench, bundle: Bundle, function: bytes):
        self.bundle = bundle
        self.accepted = threading.Event()
        self._done = threading.Event()
        self._bench = bench
        self.job = Job(bundle, function, lambda *_: self.accepted.set(), self._done.set)

    @property
    def outcomes(self) -> list[Outcome]:
        """What has been said of its calls so far."""
        return self._bench.said[self.bundle.id]

    @property
    def final(self) -> list[Outcome]:
        """The outcome of each call, in order; fails unless each call has exactly one."""
        ended = [o for o in self.outcomes if o.status != Status.RUNNING]
        by_id = {o.task_id: o for o in ended}
        assert len(by_id) == len(ended), "a call has two outcomes"
        assert set(by_id) == {c.task_id for c in self.bundle.calls}, "a call has no outcome"
        return [by_id[c.task_id] for c in self.bundle.calls]

    def wait(self, timeout: float = 20.0) -> list[Outcome]:
        """Wait for the bundle's end; return ``final``."""
        assert self._done.wait(timeout), f"the bundle did not end in {timeout} s: {self.outcomes}"
        return self.final

    def until_running(self, index: int = 0) -> None:
        """Wait until it has been said that this call runs."""
        wanted = self.bundle.calls[index].task_id
        wait_until(
            lambda: any(o.status == Status.RUNNING and o.task_id == wanted for o in self.outcomes),
            what="a call is reported as running",
        )


class Bench:
    """A supervisor with real runners."""

    def __init__(self, folder: Path, slots: int = 1, **options: Any):
        self.said: dict[str, list[Outcome]] = defaultdict(list)
        environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "MARK": "clean"}
        chosen = RunnerOptions(**{"directory": folder / "work", "environment": environment, **options})
        self.supervisor = Supervisor(chosen, slots, self._receive, _call_all)

    def __enter__(self) -> Bench:
        self.supervisor.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.supervisor.stop()
        assert not self.supervisor.is_alive()

    def until_idle(self) -> None:
        """Wait until every runner has started and none runs a bundle."""
        pool = self.supervisor._pool
        wait_until(lambda: not pool.starting and not pool.busy, 20, what="runners that are up and idle")

    def _receive(self, bundle_id: str, outcomes: list[Outcome]) -> None:
        self.said[bundle_id] += outcomes

    def start(
        self, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]] = ((),), **options: Any
    ) -> Running:
        """Hand over a bundle."""
        running = Running(self, *make_bundle(function, arguments, **options))
        self.supervisor.submit(running.job)
        return running

    def start_again(self, earlier: Running) -> Running:
        """Hand over a bundle that was given back, as the service does: under another id."""
        bundle = replace(earlier.bundle, id=names.new_id())
        running = Running(self, bundle, earlier.job.function)
        self.supervisor.submit(running.job)
        return running

    def run(
        self, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]] = ((),), **options: Any
    ) -> list[Outcome]:
        """Run a bundle to its end."""
        return self.start(function, arguments, **options).wait()

    def value(self, function: Callable[..., Any], *args: Any) -> Any:
        """What one call returns; it must succeed."""
        (outcome,) = self.run(function, [args])
        assert outcome.status == Status.SUCCEEDED, outcome
        return load_result(outcome.payload)


def _call_all(callbacks: list[Callable[[], None]]) -> None:
    for callback in callbacks:
        callback()


def statuses(outcomes: Sequence[Outcome]) -> list[str]:
    """The statuses of outcomes, with the code where there is one."""
    return [o.code or o.status for o in outcomes]
