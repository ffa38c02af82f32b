"""The spool: reports on disk, or in memory while the disk is full; and its lease."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from endpoint_worker.reporting import spool as spools
from endpoint_worker.reporting.spool import Entry, Spool
from umbel.protocol.envelope import Signer, new_private_key
from umbel.protocol.messages import Outcome, Report, Status

KEY = Signer(new_private_key())


def report(*bundles: str) -> bytes:
    outcome = Outcome("t1", 1, Status.SUCCEEDED, 1.0, 0.5)
    outcomes = {bundle: [outcome] for bundle in bundles}
    return Report("e1", "n1", "i1", outcomes=outcomes).seal(KEY, 1.0, "r1")


class Disk:
    """Fails while ``full``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, directory: Path):
        self.full = True
        self.tries = 0
        write = Path.write_bytes

        def flawed(path: Path, data: bytes) -> int:
            if path.parent == directory:
                self.tries += 1
                if self.full:
                    raise OSError(errno.ENOSPC, "No space left on device")
            return write(path, data)

        monkeypatch.setattr(Path, "write_bytes", flawed)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "node" / "spool")


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch, spool: Spool) -> Disk:
    return Disk(monkeypatch, spool.directory)


def test_reports_are_loaded_in_their_order_with_their_bundles(spool: Spool) -> None:
    first, second = report("b1", "b2"), report()
    for data in (first, second):
        spool.add(data, (), keep=True)
    (spool.directory / "0.tmp").write_bytes(b"cut short")
    (spool.directory / "lease").write_text("1")
    (spool.directory / "0.damaged").write_bytes(b"")
    loaded = Spool(spool.directory).load()
    assert [(spool.read(entry), entry.bundles, entry.size) for entry in loaded] == [
        (first, ("b1", "b2"), len(first)),
        (second, (), len(second)),
    ]
    assert all(entry.data is None and entry.written for entry in loaded), "their bytes stay on disk"
    names = {path.suffix or path.name for path in spool.directory.iterdir()}
    assert names == {".report", "lease", ".damaged"}


def test_only_the_named_files_are_loaded(spool: Spool) -> None:
    entries = [spool.add(report(f"b{number}"), (), keep=True) for number in range(3)]
    loaded = spool.load([entries[2].path, entries[0].path])
    assert [entry.bundles for entry in loaded] == [("b0",), ("b2",)]


def test_a_report_that_cannot_be_read_at_the_start_stays(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = (spool.add(report(bundle), (), keep=True) for bundle in ("b1", "b2"))
    read = Path.read_bytes

    def flawed(path: Path) -> bytes:
        if path == bad.path:
            raise OSError(errno.EIO, "damaged disk")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", flawed)
    assert [entry.path for entry in spool.load()] == [good.path]
    assert bad.path.exists()


def test_a_damaged_report_is_put_aside_and_costs_no_other(spool: Spool) -> None:
    good = spool.add(report("b1"), (), keep=True)
    (spool.directory / "0.report").write_bytes(b"garbage")
    assert [entry.path for entry in spool.load()] == [good.path]
    assert (spool.directory / "0.damaged").read_bytes() == b"garbage"


def test_bytes_are_kept_in_memory_within_a_limit(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spools, "KEPT_BYTES", 100)
    rare = spool.add(bytes(90), (), keep=False)
    first, second = spool.add(bytes(60), (), keep=True), spool.add(bytes(60), (), keep=True)
    assert [entry.data is None for entry in (rare, first, second)] == [True, False, True]
    assert [len(spool.read(entry)) for entry in (rare, first, second)] == [90, 60, 60]
    spool.remove(first)
    assert spool.add(bytes(100), (), keep=True).data is not None
    for entry in (second, rare):
        spool.remove(entry)
    assert spool.add(b"1", (), keep=True).data is None, "only the third one is in memory"


def test_what_cannot_be_written_waits_in_memory_in_order(
    spool: Spool, disk: Disk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(spools, "FULL_BYTES", 300)
    entries = [spool.add(bytes([number]) * 100, (), keep=False) for number in range(3)]
    assert spool.unwritten and spool.full
    assert [spool.read(entry)[0] for entry in entries] == [0, 1, 2]
    assert len(caplog.records) == 1, "one line a minute"
    spool.remove(entries[1])
    assert spool.unwritten and not spool.full
    disk.tries = 0
    spool.write_rest()
    assert disk.tries == 1, "the next one would fail, too"
    disk.full = False
    spool.write_rest()
    assert not spool.unwritten and not spool.full
    assert [entry.data for entry in (entries[0], entries[2])] == [None, None]
    assert [entry.written for entry in entries] == [True, False, True]
    assert [spool.read(entry)[0] for entry in (entries[0], entries[2])] == [0, 2]
    assert sorted(path.suffix for path in spool.directory.iterdir()) == [".report"] * 2
    monkeypatch.setattr(spools, "LOG_INTERVAL", 0.0)
    disk.full = True
    spool.add(b"1", (), keep=True)
    assert len(caplog.records) == 2


def test_a_report_that_was_sent_stays_on_disk_only(
    spool: Spool, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spools, "KEPT_BYTES", 100)
    unwritten = spool.add(bytes(100), (), keep=True)
    spool.release(unwritten)
    assert spool.read(unwritten) == bytes(100), "the only copy is in memory"
    spool.remove(unwritten)
    disk.full = False
    sent = spool.add(bytes(100), (), keep=True)
    spool.release(sent)
    assert sent.data is None and spool.read(sent) == bytes(100)
    assert spool.add(bytes(100), (), keep=True).data is not None, "there is room again"


def test_a_directory_that_vanished_is_made_again(spool: Spool) -> None:
    def vanish() -> None:
        spool.directory.rmdir()
        spool.directory.parent.rmdir()

    vanish()
    entry = spool.add(b"1", (), keep=True)
    assert entry.written and entry.path.read_bytes() == b"1"
    spool.remove(entry)
    vanish()
    spool.renew("1")
    assert spool.directory.is_dir()
    spool.renew("2")
    assert (spool.directory / "lease").read_text() == "2"


def test_a_report_that_was_sent_may_be_gone_or_stay(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gone, stays = (spool.add(b"1", (), keep=True) for _ in range(2))
    gone.path.unlink()
    spool.remove(gone)
    assert not caplog.records

    def unlink(self: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", unlink)
        spool.remove(stays)
        spool.leave()
    assert stays.path.exists()
    spool.remove(Entry(stays.path, 1, None, ()))
    assert not stays.path.exists()


def test_the_lease_ends_with_the_node(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    spool.leave()
    spool.renew("1")
    spool.renew("2")
    lease = spool.directory / "lease"
    assert [path.name for path in spool.directory.iterdir()] == ["lease"] and lease.read_text() == "2"
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        spool.renew("3")
    assert lease.read_text() == "2"
    spool.leave()
    assert not list(spool.directory.iterdir()), "nor its draft"
