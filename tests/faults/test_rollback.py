"""A backup of the ledger is restored while clients and endpoints continue: no future hangs."""

from __future__ import annotations

import shutil
import sqlite3
from concurrent.futures import wait
from contextlib import closing
from pathlib import Path

from tests.support.embedded import Embedded


def _square(number: int) -> int:
    return number * number


def test_a_restored_backup_leaves_no_future_hanging(tmp_path: Path) -> None:
    with Embedded(tmp_path) as umbel, umbel.executor() as executor:
        ledger = umbel.home / "ledger.sqlite"
        first = [executor.submit(_square, number) for number in range(20)]
        assert [future.result(30) for future in first] == [number * number for number in range(20)]
        backup = tmp_path / "backup.sqlite"
        with closing(sqlite3.connect(ledger)) as source, closing(sqlite3.connect(backup)) as target:
            source.backup(target)
        futures = [executor.submit(_square, number) for number in range(100)]
        assert not wait(futures, 60).not_done
        umbel.stop()
        lost = [executor.submit(_square, number) for number in range(20)]
        shutil.copy(backup, ledger)
        for end in ("-wal", "-shm"):
            ledger.with_name(ledger.name + end).unlink(missing_ok=True)
        umbel.start()
        new = [executor.submit(_square, number) for number in range(200)]
        _, late = wait([*lost, *new], 60)
        assert not late, f"{len(late)} futures hang"
        assert [future.result() for future in new] == [number * number for number in range(200)]
        assert [future.result() for future in lost] == [number * number for number in range(20)]
        assert "earlier state" in (umbel.home / "logs" / "sweep.log").read_text()
