"""Each call starts in an empty directory of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from endpoint_worker.child.call_directory import CallDirectory
from endpoint_worker.runners import call_directories, execution
from tests.support.wait import wait_until
from tests.unit.endpoint_worker.bench import Bench
from umbel import ShellFunction
from umbel.serialize import load_result


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow machine must not make calls be given back here."""
    monkeypatch.setattr(execution, "RETURN_AFTER_CALL", 60.0)
    monkeypatch.setattr(execution, "RETURN_AFTER_BUNDLE", 60.0)


def write(text: str) -> tuple[list[str], str, str]:
    before = os.listdir(".")
    with open("out.dat", "w") as file:
        file.write(text)
    time.sleep(0.1)
    return before, open("out.dat").read(), os.getcwd()


def test_concurrent_calls_do_not_mix_their_files(tmp_path: Path) -> None:
    with Bench(tmp_path, slots=2) as bench:
        bench.until_idle()
        bundles = [bench.start(write, [(f"{number}-{i}",) for i in range(3)]) for number in range(2)]
        for number, running in enumerate(bundles):
            for i, outcome in enumerate(running.wait()):
                before, text, _ = load_result(outcome.payload)
                assert (before, text) == ([], f"{number}-{i}")
    assert list((tmp_path / "work").rglob("out.dat")) == []


def nested() -> list[str]:
    before = os.listdir(".")
    os.makedirs("a/b")
    Path("a/b/file").write_text("x")
    Path("a/link").symlink_to("/etc")
    Path("link").symlink_to("a")
    os.chdir("a")
    return before


def locked() -> list[str]:
    before = os.listdir(".")
    os.mkdir("locked")
    Path("locked/file").write_text("x")
    os.chmod("locked", 0)
    os.chmod(".", 0)
    return before


def removed() -> list[str]:
    before = os.listdir(".")
    here = os.getcwd()
    os.chdir("/")
    os.rmdir(here)
    Path(here).write_text("a file now")
    return before


def moved() -> list[str]:
    before = os.listdir(".")
    Path("file").write_text("x")
    os.rename(os.getcwd(), os.path.join(os.environ["UMBEL_WORK"], f"mine-{time.monotonic_ns()}"))
    return before


@pytest.mark.parametrize("function", [nested, locked, removed, moved])
def test_whatever_a_call_does_to_its_directory_the_next_one_finds_an_empty_one(
    bench: Bench, function: Any
) -> None:
    for _ in range(2):
        outcomes = bench.run(function, [(), ()])
        assert [load_result(outcome.payload) for outcome in outcomes] == [[], []]
    assert os.path.isdir("/etc") and bench.value(os.listdir, ".") == []


def test_calls_that_leave_it_empty_use_one_directory(bench: Bench) -> None:
    def inode() -> int:
        return os.stat(".").st_ino

    outcomes = bench.run(inode, [()] * 20)
    assert len({load_result(outcome.payload) for outcome in outcomes}) == 1


def test_the_shared_directory_is_reached_by_a_variable(bench: Bench, tmp_path: Path) -> None:
    def note() -> str:
        path = os.path.join(os.environ["UMBEL_WORK"], "note")
        Path(path).write_text("lasts")
        return path

    assert bench.value(note) == str(tmp_path / "work/note")
    assert (tmp_path / "work/note").read_text() == "lasts"


def test_the_directory_goes_with_its_runner(tmp_path: Path) -> None:
    def die() -> None:
        Path("file").write_text("x")
        os._exit(3)

    with Bench(tmp_path) as bench:
        bench.run(die)
        bench.value(abs, 1)
    call_directories.wait(5)
    assert [path for path in (tmp_path / "work").rglob("*") if path.name != ".calls"] == []


def leave_file(how: str) -> None:
    Path("file").write_text(how)
    if how == "raise":
        raise ValueError(how)
    if how == "die":
        os._exit(3)


@pytest.mark.parametrize(
    ("when", "kept"),
    [("never", []), ("failed", ["raise", "die"]), ("always", ["return", "raise", "die"])],
)
def test_directories_of_calls_are_kept_as_the_setting_says(
    tmp_path: Path, when: str, kept: list[str]
) -> None:
    with Bench(tmp_path, keep_files=when) as bench:
        running = bench.start(leave_file, [("return",), ("raise",), ("die",)])
        running.wait()
        wait_until(lambda: not bench.supervisor.busy, what="the end of the calls")
    call_directories.wait(5)
    names = {
        call.task_id: how for call, how in zip(running.bundle.calls, ("return", "raise", "die"), strict=True)
    }
    found = {names[file.parent.name]: file.read_text() for file in (tmp_path / "work/kept").glob("*/file")}
    assert found == {how: how for how in kept}


def test_a_call_that_is_stopped_is_kept_if_asked(tmp_path: Path) -> None:
    def hang() -> None:
        Path("file").write_text("so far")
        time.sleep(60)

    with Bench(tmp_path, keep_files="failed") as bench:
        running = bench.start(hang, timeout=0.5)
        running.wait()
        task_id = running.bundle.calls[0].task_id
    call_directories.wait(5)
    assert (tmp_path / "work/kept" / task_id / "file").read_text() == "so far"


def test_directories_of_a_killed_worker_are_removed_at_the_next_start(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    mine = call_directories.new_name(0)
    old = mine.replace(f"-{os.getpid()}-", f"-{ended.pid}-")
    foreign = "0" * 8 + old[8:]
    for name in (mine, old, foreign):
        (tmp_path / ".calls" / name / "1").mkdir(parents=True)
        (tmp_path / "ada/.calls" / name / "1").mkdir(parents=True)
    call_directories.sweep(tmp_path)
    for place in (tmp_path / ".calls", tmp_path / "ada/.calls"):
        assert {path.name for path in place.iterdir()} == {mine, foreign}


def test_shell_functions_keep_their_files_in_the_shared_directory(bench: Bench, tmp_path: Path) -> None:
    assert bench.value(ShellFunction("touch here; pwd")).ok
    kept = bench.value(ShellFunction("touch here", keep=True))
    named = bench.value(ShellFunction("touch there", cwd="runs/a"))
    assert (Path(kept.cwd) / "here").exists() and Path(kept.cwd).parent == tmp_path / "work"
    assert (tmp_path / "work/runs/a/there").exists() and named.ok


def test_looking_at_the_directory_costs_microseconds(tmp_path: Path) -> None:
    os.chdir(tmp_path)
    directory = CallDirectory("mine")
    began = time.perf_counter()
    for _ in range(10_000):
        directory.used()
    assert (time.perf_counter() - began) / 10_000 < 50e-6
    assert not directory.used()
    Path("file").touch()
    assert directory.used()
