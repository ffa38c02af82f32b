"""Bundles for runners of different kinds on one node: each gets its own kind, and none waits for ever."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from endpoint_worker.config.sandbox import Sandbox
from endpoint_worker.runners.options import RunnerOptionsBuilder, user_directory
from endpoint_worker.runners.process import RunnerOptions
from endpoint_worker.sandbox.launchers import launcher
from tests.unit.endpoint_worker.bench import Bench, Running, make_bundle
from umbel.serialize import load_result


def submit(bench: Bench, options: RunnerOptions, function: Callable[..., Any], calls: int = 1) -> Running:
    running = Running(bench, *make_bundle(function, [()] * calls))
    running.job.options = options
    bench.supervisor.submit(running.job)
    return running


def _who() -> tuple[str, int]:
    import os

    return os.environ.get("KIND", ""), os.getpid()


def kinds(folder: Path, *names: str) -> list[RunnerOptions]:
    plain = RunnerOptions(folder / "work", {"PATH": os.environ["PATH"]})
    return [replace(plain, key=name, environment={**plain.environment, "KIND": name}) for name in names]


def _values(running: Running) -> list[tuple[str, int]]:
    return [load_result(outcome.payload) for outcome in running.wait()]


def test_a_bundle_runs_in_a_runner_of_its_kind_and_runners_stay_warm(tmp_path: Path) -> None:
    red, blue = kinds(tmp_path, "red", "blue")
    with Bench(tmp_path, slots=2) as bench:
        # both are up: one that still starts cannot give way, and the other would in its place
        bench.until_idle()
        first = [_values(submit(bench, options, _who))[0] for options in (red, blue)]
        assert [kind for kind, _ in first] == ["red", "blue"]
        again = [_values(submit(bench, options, _who))[0] for options in (blue, red, blue)]
        assert again == [first[1], first[0], first[1]]


def test_kinds_take_turns_on_one_slot_and_none_starves(tmp_path: Path) -> None:
    options = kinds(tmp_path, "red", "blue", "green")
    with Bench(tmp_path, slots=1) as bench:
        running = [submit(bench, options[number % 3], _who, calls=3) for number in range(30)]
        for number, bundle in enumerate(running):
            values = _values(bundle) if not _returned(bundle) else []
            assert all(kind == ("red", "blue", "green")[number % 3] for kind, _ in values)
        assert {kind for bundle in running if not _returned(bundle) for kind, _ in _values(bundle)} >= {"red"}


def _returned(bundle: Running) -> bool:
    """It waited too long and was given back, as any bundle is that could run elsewhere."""
    return any(outcome.status == "returned" for outcome in bundle.wait())


def test_in_a_sandbox_every_user_has_runners_and_a_folder_apart(tmp_path: Path) -> None:
    bundle, _ = make_bundle(_who, [()])
    base = RunnerOptions(tmp_path / "work/nobody", launcher=launcher(Sandbox("bubblewrap")))
    builder = RunnerOptionsBuilder(base)
    ada, grace = (builder.options(replace(bundle, user=user)) for user in ("ada", "grace"))
    assert ada is builder.options(bundle) and ada.key != grace.key
    assert (ada.directory, grace.directory) == (tmp_path / "work/ada", tmp_path / "work/grace")


def test_without_a_sandbox_every_user_has_runners_apart_that_start_alike(tmp_path: Path) -> None:
    bundle, _ = make_bundle(_who, [()])
    builder = RunnerOptionsBuilder(RunnerOptions(tmp_path / "work"))
    for environment in ("", "numpy"):
        ada, grace = (builder.options(replace(bundle, user=user), environment) for user in ("ada", "grace"))
        assert ada.key != grace.key and ada.fresh == grace.fresh
        assert replace(ada, key=grace.key) == grace
    assert builder.options(bundle).fresh == builder.base.fresh != builder.options(bundle, "numpy").fresh


def test_a_users_name_never_leads_out_of_the_work_folder() -> None:
    for name in ("..", ".", "", "a/b", "nobody", "-x", "ä", "a\n", "x" * 65):
        folder = user_directory(name)
        assert folder.startswith("user-") and "/" not in folder
    assert user_directory("ada@lab.example") == "ada@lab.example"
