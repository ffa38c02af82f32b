"""The home directory, and private files: replaced in one step, created once."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from umbel.system import files


def test_the_home_is_the_given_one_else_the_variable_else_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UMBEL_HOME", str(tmp_path / "variable"))
    assert files.home_directory(tmp_path) == tmp_path
    assert files.home_directory() == tmp_path / "variable"
    monkeypatch.setenv("UMBEL_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.home_directory() == tmp_path / ".umbel"
    monkeypatch.chdir(tmp_path)
    assert files.home_directory("relative") == tmp_path / "relative"


def test_a_private_file_is_replaced_in_one_piece(tmp_path: Path) -> None:
    file = tmp_path / "client.json"
    file.write_text("old")
    file.chmod(0o644)
    files.write_private(file, "new")
    assert file.read_text() == "new"
    assert file.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["client.json"]


def test_a_file_that_cannot_be_replaced_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "client.json").mkdir()
    with pytest.raises(OSError):
        files.write_private(tmp_path / "client.json", "new")
    assert os.listdir(tmp_path) == ["client.json"]


def test_a_new_private_file_is_created_once(tmp_path: Path) -> None:
    file = tmp_path / "keys" / "service.key"
    together = threading.Barrier(2)
    made: list[bytes] = []

    def make(content: bytes) -> bytes:
        together.wait(10)
        return content

    def create(content: bytes) -> None:
        made.append(files.create_private(file, lambda: make(content)))

    threads = [threading.Thread(target=create, args=(content,)) for content in (b"one", b"two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert made == [file.read_bytes()] * 2
    assert file.stat().st_mode & 0o777 == 0o600
    assert os.listdir(file.parent) == ["service.key"]
    assert files.create_private(file, lambda: b"three") == made[0]


def test_an_account_without_a_home_directory_is_an_error_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UMBEL_HOME", "~no-such-account/umbel")
    with pytest.raises(FileNotFoundError, match="set UMBEL_HOME"):
        files.home_directory()


def test_the_name_of_a_private_file_is_on_disk_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    files.write_private(tmp_path / "a", b"1")
    files.create_private(tmp_path / "b", lambda: b"2")
    assert synced.count(str(tmp_path)) == 2
    assert synced[-1] == str(tmp_path), "after the rename"


def test_a_file_system_that_cannot_sync_directories_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def flawed(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", flawed)
    files.write_private(tmp_path / "a", b"1")
    assert (tmp_path / "a").read_bytes() == b"1"
