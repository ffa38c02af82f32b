"""The wheel of the own release: built once, when it is asked for, and never over an administrator's."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from federation.packages import build, publish
from federation.packages.publish import Packages
from tests.support import wheels
from umbel.protocol.errors import NotFound, ServiceUnavailable


class Builder:
    """Stands where ``build.build`` and ``build.digest`` stand; the sources are ``state``."""

    def __init__(self) -> None:
        self.state, self.built, self.fails = "one", 0, False

    def build(self, directory: Path, root: Path) -> Path:
        self.built += 1
        if self.fails:
            raise build.BuildError("setuptools is missing")
        file = directory / build.WHEEL
        file.write_text(self.state)
        return file

    def digest(self, root: Path) -> str:
        return f"digest of {self.state}"


@pytest.fixture
def builder(monkeypatch: pytest.MonkeyPatch) -> Builder:
    builder = Builder()
    monkeypatch.setattr(build, "build", builder.build)
    monkeypatch.setattr(build, "digest", builder.digest)
    return builder


def _text(packages: Packages) -> str:
    with packages.open("umbel", build.WHEEL)[1] as file:
        return file.read().decode()


def test_it_is_built_once_for_each_state_of_the_sources(tmp_path: Path, builder: Builder) -> None:
    packages = Packages(tmp_path / "packages")
    assert not (tmp_path / "packages").exists(), "nothing is done before somebody asks"
    assert _text(packages) == "one"
    assert [wheel.file for wheel in packages.wheels()] == [build.WHEEL]
    assert _text(Packages(tmp_path / "packages")) == "one"
    assert builder.built == 1
    builder.state = "two"
    again = Packages(tmp_path / "packages")
    own = again.own()
    assert own is not None and own.project == "umbel" and _text(again) == "two"
    assert builder.built == 2
    assert sorted(file.name for file in (tmp_path / "packages").iterdir()) == [
        ".built.json",
        ".lock",
        build.WHEEL,
    ]


def test_one_that_was_deleted_is_built_again(tmp_path: Path, builder: Builder) -> None:
    packages = Packages(tmp_path)
    assert packages.own()
    (tmp_path / build.WHEEL).unlink()
    assert packages.own() and builder.built == 2


@pytest.mark.parametrize("before", [False, True])
def test_an_administrators_wheel_stays(tmp_path: Path, builder: Builder, before: bool) -> None:
    if before:  # in the place of one that was built here
        assert Packages(tmp_path).own()
    (tmp_path / build.WHEEL).write_text("patched by hand")
    builder.state = "two"
    packages = Packages(tmp_path)
    assert _text(packages) == "patched by hand"
    assert builder.built == int(before)


@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe", "directory"])
@pytest.mark.parametrize("before", [False, True])
def test_what_cannot_be_served_is_named_in_the_log(
    tmp_path: Path, builder: Builder, caplog: pytest.LogCaptureFixture, kind: str, before: bool
) -> None:
    file, packages = tmp_path / "packages" / build.WHEEL, Packages(tmp_path / "packages")
    file.parent.mkdir()
    if before:
        assert packages.own()
        file.unlink()
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "directory":
        file.mkdir()
    else:
        target = tmp_path / "wheel"
        if kind == "link":
            target.write_text("elsewhere")
        file.symlink_to(target)
    assert packages.own() is None and packages.wheels() == []
    assert builder.built == int(before), "it replaces what an administrator put there"
    assert [record for record in caplog.records if str(file) in record.message]


def test_other_packages_are_there_too(tmp_path: Path, builder: Builder) -> None:
    other = wheels.make(tmp_path, "zoo", "2.0")
    older = wheels.make(tmp_path, "umbel", "0.0.1")
    packages = Packages(tmp_path)
    assert {wheel.file for wheel in packages.wheels()} == {build.WHEEL, other.name, older.name}
    packages.open("zoo", other.name)[1].close()
    for project in ("umbel", "", "Zoo"):
        with pytest.raises(NotFound):
            packages.open(project, other.name)


def test_a_failure_is_logged_and_tried_again_later(
    tmp_path: Path, builder: Builder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [1000.0]
    monkeypatch.setattr(publish.time, "monotonic", lambda: now[0])
    builder.fails = True
    packages = Packages(tmp_path)
    for _ in range(20):
        assert packages.own() is None and packages.wheels() == []
        with pytest.raises(NotFound):
            packages.open("umbel", build.WHEEL)
    assert builder.built == 1
    assert [record.message for record in caplog.records if "setuptools is missing" in record.message]
    builder.fails = False
    now[0] += publish.RETRY
    assert packages.own() and builder.built == 2


def test_a_directory_that_cannot_be_made_is_a_failure(tmp_path: Path, builder: Builder) -> None:
    (tmp_path / "packages").write_text("a file")
    packages = Packages(tmp_path / "packages")
    assert packages.own() is None and packages.wheels() == [] and builder.built == 0


def test_those_who_ask_while_it_is_built_are_told_to_come_again(tmp_path: Path, builder: Builder) -> None:
    packages = Packages(tmp_path)
    with (tmp_path / ".lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ServiceUnavailable):
            packages.wheels()
        assert builder.built == 0
    assert packages.own()
    # one that is there is served meanwhile
    builder.state = "two"
    with (tmp_path / ".lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert _text(Packages(tmp_path)) == "one"


def test_threads_build_it_once(tmp_path: Path, builder: Builder) -> None:
    packages, answers = Packages(tmp_path), list[Any]()
    start = threading.Barrier(8)

    def ask() -> None:
        start.wait(10)
        try:
            answers.append(packages.own())
        except ServiceUnavailable as error:
            answers.append(error)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(answers) == 8 and None not in answers and builder.built == 1
