"""What a call knows of the service: its grant and its own task, only while it runs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.endpoint_worker.bench import Bench, Running, make_bundle
from umbel.serialize import load_result


def task_and_grant(_: int) -> tuple[str, str, str] | None:
    from umbel.system.call_access import current

    access = current()
    return None if access is None else (access.task_id(), access.url, access.grant)


def run(bench: Bench, access: dict[str, str] | None, isolation: str | None) -> tuple[list[str], list[object]]:
    """Run three calls; return the ids of their tasks and what they return."""
    running = Running(bench, *make_bundle(task_and_grant, [(0,), (1,), (2,)], isolation=isolation))
    running.job = replace(running.job, access=access)
    bench.supervisor.submit(running.job)
    values = [load_result(outcome.payload) for outcome in running.wait()]
    return [call.task_id for call in running.bundle.calls], values


@pytest.mark.parametrize("isolation", [None, "process"])
def test_each_call_has_its_own_task(bench: Bench, isolation: str | None) -> None:
    given = {"url": "http://service", "grant": "umg_x"}
    tasks, values = run(bench, given, isolation)
    assert values == [(task, "http://service", "umg_x") for task in tasks]
    assert run(bench, None, isolation)[1] == [
        None,
        None,
        None,
    ], "the next bundle has the grant of another one"
