"""Files of a home: private, complete, and locked by one service at a time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from federation.standalone import files, log_files
from federation.standalone.files import PidLock, StartError
from umbel.system.files import append_private


def test_a_private_folder_is_made_with_its_parents(tmp_path: Path) -> None:
    folder = files.private_folder(tmp_path / "a" / "b")
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_folder_below_a_file_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartError, match=f"{tmp_path}.*--home"):
        files.private_folder(tmp_path / "file" / "home")


def test_the_lock_names_its_holder_and_ends_with_it(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path[:0] = sys.argv[1:3]\n"
        "from pathlib import Path; from federation.standalone.files import PidLock\n"
        "lock = PidLock(Path(sys.argv[3])); print(lock.acquire(), flush=True); input()"
    )
    root = Path(__file__).resolve().parents[4]
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(root), str(root / "sdk"), str(tmp_path / "up.pid")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "None\n"
        assert PidLock(tmp_path / "up.pid").acquire() == holder.pid
        assert PidLock.is_held(tmp_path / "up.pid")
        holder.kill()
    assert not PidLock.is_held(tmp_path / "up.pid"), "a crash ends it"
    assert not PidLock.is_held(tmp_path / "other.pid")
    lock = PidLock(tmp_path / "up.pid")
    assert lock.acquire() is None
    assert PidLock.is_held(tmp_path / "up.pid")
    assert (tmp_path / "up.pid").read_text() == f"{os.getpid()}\n"
    lock.release()
    lock.release()
    assert (tmp_path / "up.pid").read_text() == ""


def test_a_large_log_is_put_aside_and_its_writer_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_files, "LIMIT", 10)
    log = tmp_path / "web.log"
    handle = append_private(log)
    os.write(handle, b"a long line of text\n")
    log_files.trim(tmp_path)
    os.write(handle, b"short\n")
    log_files.trim(tmp_path)
    os.close(handle)
    assert log.read_text() == "short\n"
    old = tmp_path / "web.log.1"
    assert old.read_text() == "a long line of text\n"
    assert old.stat().st_mode & 0o777 == 0o600


def test_the_tail_of_a_log_is_its_last_lines(tmp_path: Path) -> None:
    (tmp_path / "web.log").write_text("\n".join(map(str, range(100))))
    assert log_files.tail(tmp_path / "web.log", 3) == "97\n98\n99"
    assert log_files.tail(tmp_path / "none.log") == ""


def test_the_echo_repeats_whole_new_lines_with_their_source(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "web.log"
    log.write_text("before\n")
    follower = log_files.LogFollower(tmp_path, sys.stdout)
    with log.open("a") as out:
        out.write("one\ntw")
        out.flush()
        follower.step()
        assert capsys.readouterr().out == "      web | one\n"
        out.write("o\n")
        out.flush()
        follower.step()
        assert capsys.readouterr().out == "      web | two\n"
    os.truncate(log, 0)
    log.write_text("new\n")
    follower.step()
    assert capsys.readouterr().out == "      web | new\n"
