"""A directory of wheels shows and opens wheels, and nothing else that lies there or elsewhere."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from io import FileIO
from pathlib import Path

import pytest

from federation.packages import directory as module
from federation.packages.directory import Directory, normalized
from tests.support import wheels
from umbel.protocol.errors import NotFound, ServiceUnavailable


def test_it_lists_wheels_with_their_hashes(tmp_path: Path) -> None:
    second = wheels.make(tmp_path, "zoo", "2.0")
    first = wheels.make(tmp_path, "Some_Thing", "1.0")
    found = Directory(tmp_path).wheels()
    assert [(wheel.file, wheel.project, wheel.version) for wheel in found] == [
        (first.name, "some-thing", "1.0"),
        (second.name, "zoo", "2.0"),
    ]
    assert found[0].sha256 == hashlib.sha256(first.read_bytes()).hexdigest()
    assert found[0].size == first.stat().st_size


def test_a_directory_that_does_not_exist_is_empty(tmp_path: Path) -> None:
    directory = Directory(tmp_path / "none")
    assert directory.wheels() == []
    with pytest.raises(NotFound):
        directory.open("umbel-0.1.0-py3-none-any.whl")


@pytest.mark.parametrize(
    "name",
    [
        "cryptography-45.0.1-cp311-abi3-manylinux_2_34_x86_64.manylinux2014_x86_64.whl",
        "torch-2.4.0+cpu-1-cp311-cp311-linux_x86_64.whl",
        "a-1!2.0-py2.py3-none-any.whl",
    ],
)
def test_real_names_of_wheels_are_accepted(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"wheel")
    assert [wheel.file for wheel in Directory(tmp_path).wheels()] == [name]


@pytest.mark.parametrize(
    "name",
    [
        "client.json",
        ".umbel-0.1.0-py3-none-any.whl",
        "-0.1.0-py3-none-any.whl",
        "umbel-0.1.0.tar.gz",
        "umbel-0.1.0-py3-none-any.whl.part",
        "umbel-0.1.0-py3-none-any.whl\n",
        "umbel 1-0.1.0-py3-none-any.whl",
        "umbel-0.1.0-py3-none.whl",
        "umbel-0.1.0-py3-none-any<b>.whl",
        "ümbel-0.1.0-py3-none-any.whl",
        "a" * 200 + "-0.1.0-py3-none-any.whl",
    ],
)
def test_other_files_do_not_exist(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"secret")
    directory = Directory(tmp_path)
    assert directory.wheels() == []
    with pytest.raises(NotFound):
        directory.open(name)


def test_names_do_not_lead_out_of_the_directory(tmp_path: Path) -> None:
    wheel = wheels.make(tmp_path / "outside", "umbel", "9.0")
    inside = tmp_path / "inside"
    inside.mkdir()
    directory = Directory(inside)
    for name in (f"../outside/{wheel.name}", str(wheel), "", ".", "..", f"x\0{wheel.name}"):
        with pytest.raises(NotFound):
            directory.open(name)


def test_links_directories_and_pipes_do_not_exist(tmp_path: Path) -> None:
    wheel = wheels.make(tmp_path / "outside", "umbel", "9.0")
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / wheel.name).symlink_to(wheel)
    (inside / "folder-1.0-py3-none-any.whl").mkdir()
    os.mkfifo(inside / "pipe-1.0-py3-none-any.whl")
    directory = Directory(inside)
    assert directory.wheels() == []
    for file in inside.iterdir():
        with pytest.raises(NotFound):
            directory.open(file.name)


def test_a_file_that_changes_gets_another_hash(tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    file = wheels.make(tmp_path, "zoo", "2.0")
    before = directory.find(file.name)
    wheels.make(tmp_path, "zoo", "2.0", code="changed = True")
    after, content = directory.open(file.name)
    with content:
        assert hashlib.sha256(content.read()).hexdigest() == after.sha256 != before.sha256
    file.unlink()
    assert directory.wheels() == []
    with pytest.raises(NotFound):
        directory.find(file.name)


def test_a_file_changed_in_place_gets_another_hash_even_with_the_same_size_and_time(tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    file = tmp_path / "zoo-2.0-py3-none-any.whl"
    file.write_bytes(b"a" * 100)
    times = file.stat()
    for content in (b"b" * 100, b"c" * 100, b"d" * 100):  # also within one tick of the file system's clock
        directory.find(file.name)
        with file.open("r+b") as out:
            out.write(content)
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert directory.find(file.name).sha256 == hashlib.sha256(content).hexdigest()


def test_a_hash_is_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SETTLED", -1)
    file, hashed = wheels.make(tmp_path, "zoo", "2.0"), list[str]()
    real = module._described
    monkeypatch.setattr(module, "_described", lambda name, file: (hashed.append(name), real(name, file))[1])
    directory = Directory(tmp_path)
    for _ in range(3):
        assert directory.wheels() == [directory.find(file.name)]
    assert hashed == [file.name]


def test_a_file_that_is_being_written_does_not_exist_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, other = wheels.make(tmp_path, "zoo", "2.0"), wheels.make(tmp_path, "other", "1.0")
    real = module._described

    def described(name: str, opened: FileIO) -> module.Wheel:
        try:
            return real(name, opened)
        finally:
            if name == file.name:
                with file.open("ab") as out:
                    out.write(b"more")

    directory = Directory(tmp_path)
    monkeypatch.setattr(module, "_described", described)
    assert [wheel.file for wheel in directory.wheels()] == [other.name]
    with pytest.raises(NotFound):
        directory.open(file.name)
    monkeypatch.setattr(module, "_described", real)
    assert directory.find(file.name).size == file.stat().st_size


def test_a_file_that_cannot_be_read_does_not_hide_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, other = wheels.make(tmp_path, "zoo", "2.0"), wheels.make(tmp_path, "other", "1.0")
    real = module._described

    def described(name: str, opened: FileIO) -> module.Wheel:
        if name == file.name:
            raise OSError(errno.EIO, "input/output error")
        return real(name, opened)

    monkeypatch.setattr(module, "_described", described)
    assert [wheel.file for wheel in Directory(tmp_path).wheels()] == [other.name]


def test_while_one_file_is_hashed_known_ones_are_served_and_others_do_not_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SETTLED", -1)
    monkeypatch.setattr(module, "_WAIT", 0.01)
    known = wheels.make(tmp_path, "known", "1.0")
    directory = Directory(tmp_path)
    directory.wheels()
    new = wheels.make(tmp_path, "new", "1.0")
    real, begun, go_on = module._described, threading.Event(), threading.Event()

    def described(name: str, opened: FileIO) -> module.Wheel:
        begun.set()
        assert go_on.wait(30)
        return real(name, opened)

    monkeypatch.setattr(module, "_described", described)
    thread = threading.Thread(target=directory.wheels)
    thread.start()
    try:
        assert begun.wait(30)
        directory.open(known.name)[1].close()
        for ask in (directory.wheels, lambda: directory.open(new.name)):
            with pytest.raises(ServiceUnavailable):
                ask()
    finally:
        go_on.set()
        thread.join(30)
    assert len(directory.wheels()) == 2


def test_without_free_descriptors_the_packages_are_unavailable_and_not_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = wheels.make(tmp_path, "zoo", "2.0")
    directory = Directory(tmp_path)

    def fail(*_: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "open", fail)
        for ask in (directory.wheels, lambda: directory.open(file.name)):
            with pytest.raises(ServiceUnavailable):
                ask()
    directory.open(file.name)[1].close()


def test_a_file_that_becomes_shorter_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "zoo-2.0-py3-none-any.whl"
    file.write_bytes(b"a" * 100)
    with Directory(tmp_path).open(file.name)[1] as content:
        assert content.read(10) == b"a" * 10
        os.truncate(file, 50)
        assert content.read(1000) == b"a" * 40
        with pytest.raises(OSError, match="shorter"):
            content.read(1000)


def test_each_open_file_occupies_a_place_until_it_is_closed(tmp_path: Path) -> None:
    file = wheels.make(tmp_path, "zoo", "2.0")
    directory = Directory(tmp_path, downloads=2)
    first, second = directory.open(file.name, "a")[1], directory.open(file.name, "b")[1]
    with pytest.raises(ServiceUnavailable):
        directory.open(file.name)
    first.close()
    first.close()
    third = directory.open(file.name)[1]
    with pytest.raises(ServiceUnavailable):
        directory.open(file.name)
    second.close()
    third.close()
    for _ in range(5):
        with pytest.raises(NotFound):
            directory.open("none-1.0-py3-none-any.whl")
    directory.open(file.name)[1].close()


@pytest.mark.parametrize("name", ["Some.Thing", "some__thing", "SOME-thing", "some.-_thing"])
def test_names_of_projects_are_compared_in_one_form(name: str) -> None:
    assert normalized(name) == "some-thing"


def test_one_address_leaves_downloads_to_others(tmp_path: Path) -> None:
    file = wheels.make(tmp_path, "zoo", "2.0")
    directory = Directory(tmp_path, downloads=8)
    taken = [directory.open(file.name, "10.0.0.1")[1] for _ in range(4)]
    with pytest.raises(ServiceUnavailable):
        directory.open(file.name, "10.0.0.1")
    directory.open(file.name, "10.0.0.2")[1].close()
    taken.pop().close()
    directory.open(file.name, "10.0.0.1")[1].close()
    for content in taken:
        content.close()
