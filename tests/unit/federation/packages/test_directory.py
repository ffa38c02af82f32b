"""A directory of wheels shows and opens wheels, and nothing else that lies there or elsewhere."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

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


def test_each_open_file_occupies_a_place_until_it_is_closed(tmp_path: Path) -> None:
    file = wheels.make(tmp_path, "zoo", "2.0")
    directory = Directory(tmp_path, downloads=2)
    first, second = directory.open(file.name)[1], directory.open(file.name)[1]
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
