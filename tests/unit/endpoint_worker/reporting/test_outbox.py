"""The outbox: signed, in order, kept until the service has taken it, each once."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import fakeredis
import pytest
import redis

from endpoint_worker.reporting import batching, delivery, spool
from endpoint_worker.reporting.outbox import Outbox
from endpoint_worker.reporting.spool import Entry, Spool
from tests.support.wait import wait_until
from tests.unit.endpoint_worker.reporting.service import Service, make, opened, outcome, payloads
from umbel.protocol.messages import Status
from umbel.system import threads


def delivered(box: Outbox, service: Service) -> None:
    """Wait until the service has taken everything, and the outbox has seen it."""

    def done() -> bool:
        service.take()
        return not box.held

    wait_until(done, what="all is taken")


def test_outcomes_arrive_signed_and_leave_nothing_in_the_spool(
    server: fakeredis.FakeServer, tmp_path: Path
) -> None:
    with opened(server, tmp_path) as (box, _, service):
        box.add("b1", [outcome("t1", b"one"), outcome("t2", b"two")])
        box.add("b2", [outcome("t3")])
        delivered(box, service)
        assert payloads(service.reports) == [("b1", "t1", b"one"), ("b1", "t2", b"two"), ("b2", "t3", b"")]
        assert service.reports[0].node == "n1"
        assert list(tmp_path.iterdir()) == []


def test_a_report_is_kept_until_the_service_has_taken_it(
    server: fakeredis.FakeServer, tmp_path: Path
) -> None:
    with opened(server, tmp_path) as (box, _, service):
        box.add("b1", [outcome("t1", b"one")])
        wait_until(lambda: not box.unsent, what="it is sent")
        wait_until(lambda: service.held() == {"b1"}, what="it is held")
        assert box.held == ["b1"] and len(list(tmp_path.glob("*.report"))) == 1
        assert box._delivery._pushed[0][1].data is None, "its bytes are on disk only"
        delivered(box, service)
        assert not list(tmp_path.iterdir())
        wait_until(lambda: not service.held(), what="nothing is held")


def test_a_clean_end_says_goodbye_last(server: fakeredis.FakeServer, tmp_path: Path) -> None:
    with opened(server, tmp_path) as (box, _, service):
        box.add("b1", [outcome("t1")])
        wait_until(lambda: service.take(), what="the report")
        assert box.close(2.0) and box.close(2.0), "Celery may call it twice"
        assert [report.goodbye for report in service.reports] == [False, True]
        assert service.node() is None and service.beat() is None


def test_without_acknowledgement_there_is_no_goodbye_and_the_report_stays(
    server: fakeredis.FakeServer, tmp_path: Path
) -> None:
    with opened(server, tmp_path) as (box, _, service):
        box.add("b1", [outcome("t1")])
        wait_until(lambda: not box.unsent, what="it is sent")
        assert not box.close(0.3)
        assert service.held() == {"b1"} and service.node() is not None
        assert len(list(tmp_path.glob("*.report"))) == 1
        assert not any(report.goodbye for report in service.reports)


def test_without_a_round_there_is_no_goodbye_while_the_node_holds_a_bundle(
    server: fakeredis.FakeServer, tmp_path: Path
) -> None:
    with opened(server, tmp_path) as (box, view, service):
        view.work = {"b1"}
        assert not box.close(0.3)
        assert service.held() == {"b1"} and not service.reports


def test_outcomes_survive_an_outage_in_order(server: fakeredis.FakeServer, tmp_path: Path) -> None:
    with opened(server, tmp_path) as (box, _, service):
        wait_until(lambda: service.node(), what="the node is there")
        server.connected = False
        for i in range(5):
            box.add(f"b{i}", [outcome(f"t{i}")])
            wait_until(
                lambda count=i + 1: len(list(tmp_path.glob("*.report"))) >= count, what="a report is kept"
            )
        assert set(box.unsent) == set(box.held) == {f"b{i}" for i in range(5)}
        server.connected = True
        delivered(box, service)
        assert [task for _, task, _ in payloads(service.reports)] == [f"t{i}" for i in range(5)]
        assert list(tmp_path.iterdir()) == []


def test_what_could_not_be_sent_is_sent_by_the_next_run(server: fakeredis.FakeServer, tmp_path: Path) -> None:
    server.connected = False
    with opened(server, tmp_path) as (box, _, service):
        box.add("b1", [outcome("t1", b"kept")])
        wait_until(lambda: list(tmp_path.glob("*.report")), what="the report is kept")
    server.connected = True
    (tmp_path / "half.tmp").write_bytes(b"cut short")
    with opened(server, tmp_path, "i2") as (box, _, service):
        box.add("b2", [outcome("t2")])
        delivered(box, service)
    assert payloads(service.reports) == [("b1", "t1", b"kept"), ("b2", "t2", b"")]
    assert [report.instance for report in service.reports] == ["i1", "i2", "i2"]
    assert list(tmp_path.iterdir()) == []


def test_reports_are_closed_at_their_size(
    server: fakeredis.FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "REPORT_BYTES", 1000)
    with opened(server, tmp_path) as (box, _, service):
        box.add("b1", [outcome(f"t{i}", bytes(600)) for i in range(6)])
        delivered(box, service)
    assert [len(report.rows) for report in service.reports] == [2, 2, 2, 0]


def test_a_spool_that_cannot_be_written_does_not_stop_reports(
    server: fakeredis.FakeServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool = tmp_path / "spool"
    with opened(server, spool) as (box, _, service):
        spool.rmdir()
        spool.write_bytes(b"a file in its place")
        box.add("b1", [outcome("t1")])
        delivered(box, service)
    assert payloads(service.reports) == [("b1", "t1", b"")]
    assert str(spool) in caplog.text


class Flawed:
    """A client whose next commands raise ``error``, ``times`` times."""

    def __init__(self, client: fakeredis.FakeRedis, error: Exception, times: int):
        self._client, self._error, self.times = client, error, times

    def __getattr__(self, name: str) -> Any:
        if self.times > 0:
            self.times -= 1
            raise self._error
        return getattr(self._client, name)


@pytest.mark.parametrize(
    "error",
    [ValueError("a bug"), SystemExit(), redis.ReadOnlyError("failover"), redis.OutOfMemoryError("full")],
    ids=lambda error: type(error).__name__,
)
def test_no_error_of_a_client_ends_the_outbox(
    server: fakeredis.FakeServer, tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "FIRST_PAUSE", 0.01)
    with fakeredis.FakeRedis(server=server) as client:
        flawed = Flawed(client, error, 3)
        service = Service(client)
        box, _ = make(flawed, tmp_path)
        box.start()
        for number in range(3):
            box.add(f"b{number}", [outcome(f"t{number}")])
        delivered(box, service)
        assert box.close(2.0)
    assert flawed.times == 0
    assert [task for _, task, _ in payloads(service.reports)] == ["t0", "t1", "t2"]


def test_an_outcome_that_cannot_be_written_costs_nobody_else(
    server: fakeredis.FakeServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(server, tmp_path) as (box, _, service):
        box.add("b1", [outcome("t1")])
        box.add("b2", [outcome("t2")._replace(usage={"an object": object()})])
        box.add("b3", [outcome("t3")])
        delivered(box, service)
    rows = {row.task_id: row for report in service.reports for row in report.rows}
    assert {task: row.status for task, row in rows.items()} == {
        "t1": Status.SUCCEEDED,
        "t2": Status.LOST,
        "t3": Status.SUCCEEDED,
    }
    assert "b2" in caplog.text and not list(tmp_path.iterdir())


def test_a_report_that_cannot_be_read_does_not_hold_up_the_others(
    server: fakeredis.FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "UNREADABLE_DELAY", 0.3)
    unreadable = [True]
    read = Spool.read

    def flawed(self: Spool, entry: Entry) -> bytes:
        if "b1" in entry.bundles and unreadable[0]:
            raise OSError(errno.EIO, "damaged disk")
        return read(self, entry)

    monkeypatch.setattr(Spool, "read", flawed)
    with opened(server, tmp_path) as (box, _, service):
        box.add("b1", [outcome("t1")])
        wait_until(lambda: list(tmp_path.glob("*.report")), what="the report is kept")
        box.add("b2", [outcome("t2")])
        wait_until(lambda: service.take() or box.unsent == box.held == ["b1"], what="the other is sent")
        unreadable[0] = False
        delivered(box, service)
    assert [task for _, task, _ in payloads(service.reports)] == ["t2", "t1"]


@pytest.mark.parametrize("cut", [None, "before", "after"])
def test_a_report_is_on_disk_before_the_answer_of_the_broker_is_read(
    server: fakeredis.FakeServer, tmp_path: Path, cut: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever happens to the connection: ``cut`` says when it is."""
    there: list[int] = []

    def watched(*args: Any, **options: Any) -> Any:
        there.append(len(list(tmp_path.glob("*.report"))))
        if cut == "after":
            raise redis.ConnectionError("cut")
        return read(*args, **options)

    def refused(*_: Any) -> None:
        raise redis.ConnectionError("cut")

    with fakeredis.FakeRedis(server=server) as client:
        box, _ = make(client, tmp_path)
        box.step()
        box.add("b1", [outcome("t1")])
        with monkeypatch.context() as patch:
            (connection,) = client.connection_pool._available_connections
            read = connection.read_response
            patch.setattr(connection, "read_response", watched)
            if cut == "before":
                patch.setattr(connection, "send_packed_command", refused)
            box.step()
        assert set(there) <= {1} and bool(there) == (cut != "before")
        assert len(list(tmp_path.glob("*.report"))) == 1 and box.held == ["b1"]
        assert box.unsent == (["b1"] if cut else [])


def test_a_report_that_must_wait_is_written_at_once(
    server: fakeredis.FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fakeredis.FakeRedis(server=server) as client:
        box, _ = make(client, tmp_path)
        box.step()
        monkeypatch.setattr(box._delivery._sender, "blocked", lambda: True)
        box.add("b1", [outcome("t1")])
        box.step()
        assert len(list(tmp_path.glob("*.report"))) == 1 and box.unsent == ["b1"]


def test_on_a_full_disk_reports_wait_in_memory_until_there_is_room(
    server: fakeredis.FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "FULL_BYTES", 3000)
    full = [True]
    write = Path.write_bytes

    def flawed(self: Path, data: bytes) -> int:
        if full[0] and self.parent == tmp_path:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, data)

    monkeypatch.setattr(Path, "write_bytes", flawed)
    with opened(server, tmp_path) as (box, _, service):
        server.connected = False
        for number in range(4):
            box.add(f"b{number}", [outcome(f"t{number}", bytes(1000))])
            wait_until(lambda count=number + 1: len(box._delivery._backlog) >= count, what="a report waits")
        assert box.full and len(box.unsent) == 4 and not list(tmp_path.glob("*.report"))
        full[0] = False
        wait_until(lambda: len(list(tmp_path.glob("*.report"))) == 4, what="they are written")
        assert not box.full
        server.connected = True
        delivered(box, service)
    assert [task for _, task, _ in payloads(service.reports)] == [f"t{n}" for n in range(4)]
    assert not list(tmp_path.iterdir())


def test_a_damaged_report_in_the_spool_is_kept_aside(
    server: fakeredis.FakeServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "1.report").write_bytes(b"UMB1 cut short")
    with opened(server, tmp_path) as (box, _, service):
        box.add("b1", [outcome("t1")])
        delivered(box, service)
    assert [path.name for path in tmp_path.iterdir()] == ["1.damaged"] and "1.report" in caplog.text


def test_bundles_of_an_earlier_run_are_held_until_their_outcomes_are_sent(
    server: fakeredis.FakeServer, tmp_path: Path
) -> None:
    server.connected = False
    with opened(server, tmp_path) as (box, _, service):
        box.add("b1", [outcome("t1")])
        wait_until(lambda: list(tmp_path.glob("*.report")), what="the report is kept")
    with opened(server, tmp_path, "i2") as (box, _, service):
        assert box.unsent == ["b1"]
        server.connected = True
        wait_until(lambda: service.held("i2") == {"b1"}, what="it is held")
        delivered(box, service)
