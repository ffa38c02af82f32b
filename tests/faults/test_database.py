"""The database of a running service is locked or full: no process ends, and no call is lost."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.embedded import Embedded
from tests.support.wait import wait_until
from umbel.protocol.errors import ServiceUnavailable

SERVICES = ("web", "collect", "sweep")
LOCK = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
time.sleep(float(sys.argv[2]))
"""


def _slow(number: int, size: int) -> tuple[int, str]:
    import time

    time.sleep(0.3)
    return number, "x" * size


def _services(umbel: Embedded) -> dict[str, int]:
    return {name: umbel.pid(name) for name in SERVICES}


def _all_end_well(futures: list[Future[tuple[int, str]]], timeout: float) -> None:
    _, late = wait(futures, timeout)
    assert not late, f"{len(late)} of {len(futures)} futures have not ended"
    assert [future.result()[0] for future in futures] == list(range(len(futures)))


@pytest.mark.parametrize(
    ("seconds", "busy_timeout"),
    [(4.0, "0.5"), pytest.param(60.0, "20", marks=[pytest.mark.long, pytest.mark.timeout(300)])],
)
def test_another_process_locks_the_ledger(tmp_path: Path, seconds: float, busy_timeout: str) -> None:
    with (
        Embedded(tmp_path, environ={"UMBEL_BUSY_TIMEOUT": busy_timeout}) as umbel,
        umbel.executor() as executor,
    ):
        before = _services(umbel)
        futures = [executor.submit(_slow, number, 10) for number in range(4)]
        futures[0].result(30)
        words = [sys.executable, "-c", LOCK, str(umbel.home / "ledger.sqlite"), str(seconds)]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as locker:
            assert locker.stdout is not None and locker.stdout.readline() == "locked\n"
            until = time.monotonic() + seconds
            futures += [executor.submit(_slow, number, 10) for number in range(4, 8)]
            assert not wait(futures, max(0.0, until - time.monotonic() - 0.5)).done.issuperset(futures)
        _all_end_well(futures, 40)
        assert _services(umbel) == before
        assert "Traceback" not in umbel.logs(1000)


@contextmanager
def _small_disk(size: str) -> Iterator[Path]:
    """Mount an empty file system of this size."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    folder = Path(tempfile.mkdtemp(prefix="small-disk-"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()


def _fill(file: Path) -> None:
    """Write until the file system has no byte left."""
    with file.open("wb", buffering=0) as out:
        for block in (1 << 16, 1):
            try:
                while True:
                    out.write(b"x" * block)
            except OSError:
                continue


def test_the_disk_of_the_ledger_is_full(tmp_path: Path) -> None:
    with (
        _small_disk("16m") as disk,
        Embedded(tmp_path, environ={"UMBEL_DATABASE_URL": f"sqlite:///{disk / 'ledger.sqlite'}"}) as umbel,
        umbel.executor() as executor,
    ):
        before = _services(umbel)
        futures = [executor.submit(_slow, number, 300_000) for number in range(8)]
        futures[0].result(30)
        content = os.urandom(500_000)

        def large() -> bytes:
            return content

        _fill(disk / "filler")
        client = umbel.client(patience=2)
        with pytest.raises(ServiceUnavailable) as caught:
            client.register_function(large)
        assert caught.value.code == "STORAGE_FULL"
        log = umbel.home / "logs" / "collect.log"
        wait_until(lambda: "STORAGE_FULL" in log.read_text(), 15, what="a full disk")
        assert not all(future.done() for future in futures)
        (disk / "filler").unlink()
        _all_end_well(futures, 40)
        assert _services(umbel) == before
