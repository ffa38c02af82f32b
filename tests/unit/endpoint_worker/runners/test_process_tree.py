"""What is killed with a call, and srun's second process, which must live a little longer."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from endpoint_worker.runners import process_tree
from tests.support.wait import wait_until


class Pair:
    """A process and its child, both called ``name``; the child notes in a file that it outlived the other."""

    def __init__(self, folder: Path, name: str, after: str = "") -> None:
        program = folder / name
        shutil.copy("/bin/sh", program)
        self.note = folder / "note"
        # a shell that starts after the end of its parent would wait for another process
        ready = folder / "ready"
        wait = "while kill -0 $PPID; do sleep 0.02; done 2>/dev/null"
        script = f": > {ready}; {wait}; {after} echo ended > {self.note}"
        (folder / "second").write_text(script)
        self.first = psutil.Popen([str(program), "-c", f"{program} {folder}/second & wait; exit"])
        self.second: psutil.Process = wait_until(lambda: self._second(name), 10.0, what="the child")
        wait_until(ready.exists, 10.0, what="the start of the child")

    def _second(self, name: str) -> psutil.Process | None:
        return next((child for child in self.first.children() if child.name() == name), None)

    def close(self) -> None:
        for process in (self.first, self.second):
            try:
                process.kill()
            except psutil.Error:
                continue
        self.first.wait()


@pytest.fixture
def pair(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Pair]:
    made = Pair(tmp_path, *getattr(request, "param", ("srun",)))
    yield made
    made.close()
    process_tree._spared.clear()


def test_sruns_second_process_may_end_the_step(pair: Pair) -> None:
    process_tree.kill([pair.first.pid, *process_tree.descendants(pair.first.pid)])
    assert pair.first.wait(10) != 0
    wait_until(pair.note.exists, 10.0, what="the second process's work")
    assert process_tree.pending()
    wait_until(lambda: not pair.second.is_running(), 10.0, what="its end")
    process_tree.kill_leftovers({child.pid for child in psutil.Process().children()})
    assert not process_tree.pending()


@pytest.mark.parametrize("pair", [("srun", "sleep 600;")], indirect=True)
def test_its_time_is_limited(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_tree, "SRUN_SECONDS", 0.3)
    process_tree.kill([pair.first.pid, *process_tree.descendants(pair.first.pid)])
    assert pair.second.is_running()
    others = {child.pid for child in psutil.Process().children()}
    wait_until(
        lambda: process_tree.kill_leftovers(others) or not process_tree.pending(),
        10.0,
        what="the end of its time",
    )
    wait_until(lambda: not _alive(pair.second), 10.0, what="its end")
    assert not pair.note.exists()


@pytest.mark.parametrize("pair", [("other",)], indirect=True)
def test_of_others_all_is_killed_at_once(pair: Pair) -> None:
    process_tree.kill([pair.first.pid, *process_tree.descendants(pair.first.pid)])
    wait_until(lambda: not _alive(pair.second), 10.0, what="the child's end")
    assert not pair.note.exists() and not process_tree.pending()


def test_one_that_is_called_srun_by_itself_is_killed(tmp_path: Path) -> None:
    program = tmp_path / "srun"
    shutil.copy(shutil.which("sleep") or "/bin/sleep", program)
    with subprocess.Popen([str(program), "600"]) as alone:
        process_tree.kill([alone.pid])
        assert alone.wait(10) != 0 and not process_tree.pending()


def test_programs_of_the_worker_itself_are_not_leftovers() -> None:
    others = {child.pid for child in psutil.Process().children()}
    with (
        process_tree.exempt_program(["sleep", "600"]) as mine,
        subprocess.Popen(["sleep", "600"]) as leftover,
    ):
        assert process_tree.kill_leftovers(others) == 1
        leftover.wait(10)
        assert mine.poll() is None
        mine.kill()
        mine.wait(10)
    assert not process_tree._exempt


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
