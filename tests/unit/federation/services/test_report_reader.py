"""Opening the reports of one endpoint; what is rejected, and why, is in ``contract/ledger``."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import redis

from federation.broker.report_lists import Unread
from federation.services import report_reader
from federation.services.endpoint_keys import EndpointKeys
from federation.services.report_reader import LOG_INTERVAL, Batch, ReportReader
from tests.support.endpoint import FakeEndpoint
from tests.support.ledger import Ledger
from tests.unit.federation.services.conftest import Ticks
from umbel.protocol import names
from umbel.protocol.limits import MAX_REPORT_BYTES
from umbel.protocol.messages import Outcome, Report, Status
from umbel.protocol.pointer import write_pointer


@pytest.fixture
def reader(ledger: Ledger) -> ReportReader:
    return ReportReader(ledger.fed, EndpointKeys(ledger.fed))


def _sealed(lab: FakeEndpoint, node: str = "n1") -> bytes:
    return Report(lab.id, node, names.new_id(), goodbye=True).seal(lab.signer, 1.0, names.new_id())


def _in_parts(ledger: Ledger, lab: FakeEndpoint, data: bytes) -> tuple[str, bytes]:
    """Write a large report; return its key and its pointer."""
    id = names.new_id()
    key = names.parts_key(lab.id, id)
    ledger.broker.redis.set(key, data)
    return key, write_pointer(id, len(data))


def _nodes(batch: Batch) -> list[str]:
    return [report.node for report in batch.reports]


def test_an_endpoint_is_known_if_it_is_registered(reader: ReportReader, lab: FakeEndpoint) -> None:
    assert reader.known(lab.id) and not reader.known(names.new_id())


def test_what_is_rejected_keeps_its_place(reader: ReportReader, lab: FakeEndpoint) -> None:
    batch = reader.open(Unread(lab.id, 4, [_sealed(lab, "a"), b"x", 10**9, _sealed(lab, "b")]))
    assert [None if report is None else report.node for report in batch.opened] == ["a", None, None, "b"]
    assert _nodes(batch) == ["a", "b"]
    assert [each.data for each in batch.rejections] == [b"x", 10**9]
    assert str(MAX_REPORT_BYTES) in batch.rejections[1].reason and batch.count == 0


def test_a_fault_of_the_list_is_one_rejection(
    ledger: Ledger, reader: ReportReader, lab: FakeEndpoint
) -> None:
    batch = reader.open(Unread(lab.id, 0, fault="no list"))
    assert (batch.opened, [each.reason for each in batch.rejections]) == ([], ["no list"])
    assert reader.reject([batch, batch]) == 2 and ledger.broker.dead_letters.count() == 2
    assert ledger.broker.dead_letters.latest(lab.id)[0]["size"] == 0


def test_reports_of_an_endpoint_without_a_key_are_rejected(reader: ReportReader, lab: FakeEndpoint) -> None:
    batch = reader.open(Unread(names.new_id(), 1, [_sealed(lab)]))
    assert batch.opened == [None] and "not registered" in batch.rejections[0].reason


def test_large_reports_are_opened_a_few_at_a_time(
    ledger: Ledger, reader: ReportReader, lab: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as have together the size of a batch, and always one."""
    some = [_sealed(lab, name) for name in "abc"]
    assert len({len(data) for data in some}) == 1
    parts = [_in_parts(ledger, lab, data) for data in some]
    unread = Unread(lab.id, 3, [pointer for _, pointer in parts])
    for limit, expected in ((3, "abc"), (2, "ab"), (0.5, "a")):
        monkeypatch.setattr(report_reader, "READ_BYTES", int(limit * len(some[0])))
        batch = reader.open(unread)
        assert _nodes(batch) == list(expected) and not batch.rejections
        assert batch.keys == [key for key, _ in parts][: len(expected)]


def test_outcomes_are_applied_a_few_at_a_time(reader: ReportReader, lab: FakeEndpoint) -> None:
    """Whole reports, until there are enough outcomes; a rejected report has none."""
    two = {names.new_id(): [Outcome(names.new_id(), 1, Status.SUCCEEDED) for _ in range(2)]}
    data = Report(lab.id, "n1", names.new_id(), outcomes=two).seal(lab.signer, 1.0, names.new_id())
    unread = Unread(lab.id, 9, [b"x", data, data, data, data])
    for most, expected in ((1, 1), (2, 1), (3, 2), (6, 3), (100, 4)):
        batch = reader.open(unread, most)
        assert (len(batch.reports), len(batch.opened)) == (expected, expected + 1)


def test_only_keys_of_reports_that_are_done_are_done(
    ledger: Ledger, reader: ReportReader, lab: FakeEndpoint
) -> None:
    first, second = _in_parts(ledger, lab, _sealed(lab, "a")), _in_parts(ledger, lab, _sealed(lab, "c"))
    batch = reader.open(Unread(lab.id, 4, [first[1], _sealed(lab, "b"), second[1]]))
    found = []
    for batch.count in range(4):
        found.append(batch.done_keys)
    assert found == [[], [first[0]], [first[0]], [first[0], second[0]]]


def test_parts_must_be_complete(
    ledger: Ledger, reader: ReportReader, lab: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, pointer = _in_parts(ledger, lab, _sealed(lab))
    whole = ledger.broker.redis.get(key)
    get = mock.Mock(wraps=ledger.broker.redis.get)
    monkeypatch.setattr(ledger.broker.redis, "get", get)
    found = []
    for data in (whole[:-1], whole + b"x", whole):
        ledger.broker.redis.set(key, data)
        batch = reader.open(Unread(lab.id, 1, [pointer]))
        found.append((len(batch.reports), [each.data for each in batch.rejections]))
    assert found == [(0, [pointer]), (0, [pointer]), (1, [])]
    assert get.call_count == 1, "what has another size is not read"
    ledger.broker.redis.delete(key)
    ledger.broker.redis.lpush(key, "x")
    assert "not a string" in reader.open(Unread(lab.id, 1, [pointer])).rejections[0].reason


def test_parts_that_are_replaced_while_they_are_read_are_not_complete(
    ledger: Ledger, reader: ReportReader, lab: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, pointer = _in_parts(ledger, lab, _sealed(lab))
    get = ledger.broker.redis.get

    def late(name: str) -> Any:
        ledger.broker.redis.append(name, b"more")
        return get(name)

    monkeypatch.setattr(ledger.broker.redis, "get", late)
    batch = reader.open(Unread(lab.id, 1, [pointer]))
    assert batch.opened == [None] and batch.keys == [key]


def test_an_error_of_the_broker_rejects_no_report(
    ledger: Ledger, reader: ReportReader, lab: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, pointer = _in_parts(ledger, lab, _sealed(lab))

    def loading(name: str) -> Any:
        raise redis.BusyLoadingError("LOADING Redis is loading the dataset in memory")

    monkeypatch.setattr(ledger.broker.redis, "strlen", loading)
    with pytest.raises(redis.BusyLoadingError):
        reader.open(Unread(lab.id, 1, [pointer]))

    def refused(name: str) -> Any:
        raise redis.ResponseError("ERR unknown")

    monkeypatch.setattr(ledger.broker.redis, "strlen", refused)
    with pytest.raises(redis.ResponseError):
        reader.open(Unread(lab.id, 1, [pointer]))


def test_one_line_per_endpoint_and_interval_is_logged(
    reader: ReportReader,
    lab: FakeEndpoint,
    ticks: Ticks,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(report_reader, "time", SimpleNamespace(monotonic=ticks))
    other = names.new_id()

    def logged(after: float, endpoint_id: str, data: bytes | int = b"xyz") -> list[Any]:
        """The arguments of the lines about one report: endpoint, size, others before."""
        ticks.now += after
        caplog.clear()
        batch = Batch(Unread(endpoint_id, 1))
        batch.reject("bad", data)
        reader.reject([batch])
        return [(args[0], args[1], args[3]) for args in (record.args for record in caplog.records)]

    ticks.now = 1.0  # a machine that has just started
    assert logged(0.0, lab.id) == [(lab.id, 3, 0)]
    assert logged(0.0, other, 12345) == [(other, 12345, 0)]
    assert logged(1.0, lab.id) == logged(LOG_INTERVAL - 1.5, lab.id) == []
    assert logged(0.5, lab.id) == [(lab.id, 3, 2)]
    assert logged(LOG_INTERVAL, lab.id) == [(lab.id, 3, 0)]
