"""A node's reports from the spool to the ledger, with a sender that only numbers them."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from endpoint_worker.reporting import backlog, delivery
from endpoint_worker.reporting.delivery import Delivery
from endpoint_worker.reporting.sender import LOOK_INTERVAL
from endpoint_worker.reporting.spool import Entry, Spool
from endpoint_worker.reporting.tally import Tally
from tests.unit.endpoint_worker.reporting.service import KEY, outcome
from umbel.protocol.messages import Report

LARGE = 10_000


class Sender:
    """Pushes at once; large reports need ``pieces`` calls."""

    def __init__(self) -> None:
        self.pushed: list[bytes] = []
        self.advanced: list[str] = []
        self.pieces = 1
        self.full = False

    def is_large(self, size: int) -> bool:
        return size > LARGE

    def blocked(self) -> bool:
        return self.full

    def push(self, data: bytes, meanwhile: Callable[[], None] = lambda: None) -> int:
        meanwhile()
        self.pushed.append(data)
        return len(self.pushed)

    def advance(self, report_id: str, data: bytes) -> int | None:
        self.advanced.append(report_id)
        return self.push(data) if len(self.advanced) >= self.pieces else None


class Box:
    """A delivery and all that it uses."""

    def __init__(self, directory: Path):
        self.spool, self.sender, self.tally = Spool(directory), Sender(), Tally()
        self.delivery = Delivery(self.spool, self.sender, self.tally)  # type: ignore[arg-type]

    def add(self, name: str, size: int = 0) -> Entry:
        """Spool a report about a bundle of this name, and have it sent."""
        report = Report("e1", "n1", "i1", outcomes={name: [outcome("t", b"x" * size)]})
        self.tally.add([name])
        entry = self.spool.add(report.seal(KEY, 1.0, f"id of {name}"), (name,), keep=True)
        self.delivery.append(entry)
        return entry

    def send(self, interrupted: bool = False) -> float:
        return self.delivery.send(lambda: interrupted)

    def files(self) -> int:
        return len(list(self.spool.directory.glob("*.report")))

    @property
    def state(self) -> tuple[bool, bool, int]:
        return self.delivery.waiting, self.delivery.unacknowledged, self.files()


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


def test_reports_are_kept_until_the_service_has_taken_them(box: Box) -> None:
    assert box.state == (False, False, 0)
    entries = [box.add(name) for name in ("b1", "b2", "b3")]
    assert box.state == (True, False, 3) and sorted(box.tally.unsent) == ["b1", "b2", "b3"]
    assert box.send() == delivery.UNREADABLE_DELAY
    assert box.state == (False, True, 3) and not box.tally.unsent
    assert [entry.data for entry in entries] == [None] * 3, "they are on disk only"
    assert not box.delivery.acknowledge(0) and box.delivery.acknowledge(2)
    assert not box.delivery.acknowledge(2)
    assert box.state == (False, True, 1) and box.tally.held == ["b3"]
    assert box.delivery.acknowledge(7)
    assert box.state == (False, False, 0) and not box.tally.held


def test_a_report_is_written_while_it_is_pushed(box: Box) -> None:
    entry = box.spool.add(b"UMBP", ("b1",), keep=True, later=True)
    box.delivery.append(entry)
    assert box.state == (True, False, 0) and box.spool.unwritten
    box.send()
    assert box.state == (False, True, 1) and not box.spool.unwritten


def test_reports_of_an_earlier_run_count_as_unsent(box: Box, tmp_path: Path) -> None:
    box.add("b1")
    later = Box(tmp_path)
    later.delivery.load(later.spool.load())
    assert later.state == (True, False, 1) and later.tally.unsent == ["b1"]


def test_what_was_not_taken_is_sent_again_before_the_rest_in_order(box: Box) -> None:
    entries = [box.add(name) for name in ("b1", "b2", "b3")]
    box.send()
    assert box.delivery.acknowledge(1)
    box.add("b4")
    box.delivery.send_again()
    assert box.state == (True, False, 3) and sorted(box.tally.unsent) == ["b2", "b3", "b4"]
    first = [box.spool.read(entry) for entry in entries[1:]]
    box.sender.pushed.clear()
    box.send()
    assert box.sender.pushed[:2] == first and len(box.sender.pushed) == 3


def test_sending_ends_when_something_else_is_due(box: Box) -> None:
    for name in ("b1", "b2"):
        box.add(name)
    assert box.send(interrupted=True) == 0.0
    assert len(box.sender.pushed) == 1 and box.state == (True, True, 2)


def test_nothing_is_sent_while_the_list_is_full(box: Box) -> None:
    box.add("b1")
    box.sender.full = True
    assert box.send() == LOOK_INTERVAL and not box.sender.pushed


def test_one_piece_of_a_large_report_is_sent_at_a_time(box: Box) -> None:
    large = box.add("b1", 2 * LARGE)
    box.sender.pieces = 3
    assert [box.send(), box.send()] == [0.0, 0.0] and not box.sender.pushed
    small = box.add("b2")
    box.send()
    assert box.sender.advanced == ["id of b1"] * 3
    assert box.sender.pushed == [box.spool.read(small), box.spool.read(large)]


def test_a_report_that_is_missing_is_forgotten(box: Box) -> None:
    gone, good = box.add("b1"), box.add("b2")
    box.spool.release(gone)
    gone.path.unlink()
    box.send()
    assert box.sender.pushed == [box.spool.read(good)]
    assert not box.delivery.waiting and box.tally.held == ["b2"]


def test_a_report_that_cannot_be_read_is_tried_again_later(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(backlog, "time", SimpleNamespace(monotonic=lambda: ticks.now))
    bad, good = box.add("b1"), box.add("b2")
    read = box.spool.read

    def flawed(entry: Entry) -> bytes:
        if entry is bad:
            raise OSError(errno.EIO, "damaged disk")
        return read(entry)

    with monkeypatch.context() as patch:
        patch.setattr(box.spool, "read", flawed)
        assert box.send() == delivery.UNREADABLE_DELAY
    assert box.sender.pushed == [read(good)] and box.delivery.waiting
    box.send()
    assert len(box.sender.pushed) == 1
    ticks.now += delivery.UNREADABLE_DELAY
    box.send()
    assert box.sender.pushed == [read(good), read(bad)] and not box.delivery.waiting


def test_a_report_that_was_not_pushed_is_still_to_be_sent(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    box.add("b1")

    def refused(*_: Any) -> Any:
        raise redis.ConnectionError("refused")

    with monkeypatch.context() as patch:
        patch.setattr(box.sender, "push", refused)
        with pytest.raises(redis.ConnectionError):
            box.send()
    assert box.state == (True, False, 1) and box.tally.unsent == ["b1"]
    box.send()
    assert box.state == (False, True, 1)
