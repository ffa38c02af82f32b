"""The database of a running service is locked or full: no process ends, and no call is lost."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import Future, wait
from pathlib import Path

import pytest

from tests.support import small_disk
from tests.support.embedded import Embedded
from tests.support.small_disk import SmallDisk
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


def test_the_disk_of_the_ledger_is_full(tmp_path: Path) -> None:
    if why := small_disk.missing():
        pytest.skip(why)
    (folder := tmp_path / "disk").mkdir()
    with (
        SmallDisk(folder, "16m") as disk,
        Embedded(tmp_path, environ={"UMBEL_DATABASE_URL": f"sqlite:///{folder / 'ledger.sqlite'}"}) as umbel,
        umbel.executor() as executor,
    ):
        before = _services(umbel)
        futures = [executor.submit(_slow, number, 300_000) for number in range(8)]
        futures[0].result(30)
        content = os.urandom(500_000)

        def large() -> bytes:
            return content

        disk.fill()
        client = umbel.client(patience=2)
        with pytest.raises(ServiceUnavailable) as caught:
            client.register_function(large)
        assert caught.value.code == "STORAGE_FULL"
        log = umbel.home / "logs" / "collect.log"
        wait_until(lambda: "STORAGE_FULL" in log.read_text(), 15, what="a full disk")
        assert not all(future.done() for future in futures)
        disk.empty()
        _all_end_well(futures, 40)
        assert _services(umbel) == before
