"""Output and resource use of calls are stored, readable from any offset, and summarized by function."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import func, select

from federation.db.tables import logs as log_table
from federation.db.tables import samples as sample_table
from federation.ledger import cancel, logs, samples
from federation.registry import functions
from tests.support.endpoint import FakeEndpoint, FakeNode, outcome
from tests.support.ledger import Ledger
from umbel.protocol.errors import NotFound
from umbel.protocol.messages import Bundle, Status
from umbel.protocol.records import Log, Place

DAY = 86400.0


@pytest.fixture
def server_settings() -> dict[str, Any]:
    return {"retention": 2 * DAY}


def _report(node: FakeNode, bundle: Bundle, status: str = Status.SUCCEEDED, **how: Any) -> None:
    node.report({bundle.id: [outcome(bundle, call, status, **how) for call in bundle.calls]})


def _log(ledger: Ledger, task_id: str, offset: int = 0, attempt: int | None = None) -> dict[str, Any]:
    return logs.log_from(ledger.fed, ledger.me, task_id, offset, attempt)


def _rows(ledger: Ledger, table: Any = log_table) -> int:
    with ledger.fed.database.read() as connection:
        return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


def test_a_log_grows_while_the_task_runs(ledger: Ledger, lab: FakeEndpoint, node: FakeNode) -> None:
    task_id = ledger.submit(lab)["task_ids"][0]
    (bundle,) = node.take()
    assert _log(ledger, task_id)["text"] == "" and not _log(ledger, task_id)["ended"]
    _report(node, bundle, Status.RUNNING, log=Log(b"one\n", b"", 4))
    ledger.collect()
    first = _log(ledger, task_id)
    assert first == {
        **{"task_id": task_id, "state": "running", "attempt": 1},
        **{"text": "one\n", "offset": 4, "size": 4, "ended": False},
    }
    _report(node, bundle, Status.RUNNING, log=Log(b"one\ntwo\n", b"", 8))
    ledger.collect()
    assert _log(ledger, task_id, 4, 1)["text"] == "two\n"
    _report(node, bundle, log=Log(b"one\ntwo\nend", b"", 11))
    ledger.collect()
    last = _log(ledger, task_id, 8, 1)
    assert (last["text"], last["offset"], last["ended"], last["state"]) == ("end", 11, True, "succeeded")
    assert _log(ledger, task_id, 11, 1)["text"] == _log(ledger, task_id, 10**9, 1)["text"] == ""


def test_a_report_that_comes_twice_or_late_takes_nothing_away(
    ledger: Ledger, lab: FakeEndpoint, node: FakeNode
) -> None:
    task_id = ledger.submit(lab)["task_ids"][0]
    (bundle,) = node.take()
    _report(node, bundle, Status.RUNNING, log=Log(b"one\n", b"", 4))
    early = node.last_report
    _report(node, bundle, Status.RUNNING, log=Log(b"one\ntwo\n", b"", 8))
    ledger.collect()
    node.last_report = early
    node.repeat()
    ledger.collect()
    assert _log(ledger, task_id)["text"] == "one\ntwo\n"
    _report(node, bundle, log=Log(b"one\ntwo\nend", b"", 11))
    node.repeat()
    ledger.collect()
    assert _log(ledger, task_id)["text"] == "one\ntwo\nend" and _rows(ledger) == 1


def test_another_try_replaces_what_the_one_before_wrote(
    ledger: Ledger, lab: FakeEndpoint, node: FakeNode
) -> None:
    task_id = ledger.submit(lab, retries=1)["task_ids"][0]
    _report(node, node.take()[0], Status.FAILED, log=Log(b"first try", b"", 9))
    ledger.collect()
    assert (_log(ledger, task_id)["text"], _log(ledger, task_id)["ended"]) == ("first try", False)
    _report(node, node.take()[0], log=Log(b"second", b"", 6))
    ledger.collect()
    found = _log(ledger, task_id, 9, 1)
    assert (found["text"], found["attempt"], found["ended"]) == ("second", 2, True)


def test_a_cancelled_task_keeps_its_last_words(ledger: Ledger, lab: FakeEndpoint, node: FakeNode) -> None:
    task_id = ledger.submit(lab)["task_ids"][0]
    (bundle,) = node.take()
    cancel.cancel_task(ledger.fed, ledger.me, task_id)
    _report(node, bundle, Status.SKIPPED, log=Log(b"last words", b"", 10))
    ledger.collect()
    assert _log(ledger, task_id)["text"] == "last words"


def test_only_tasks_that_wrote_something_have_a_row(
    ledger: Ledger, lab: FakeEndpoint, node: FakeNode
) -> None:
    ledger.submit(lab, 200)
    while node.take():
        node.finish()
        ledger.collect()
    assert _rows(ledger) == 0


def test_logs_go_with_their_tasks(ledger: Ledger, lab: FakeEndpoint, node: FakeNode) -> None:
    task_id = ledger.submit(lab)["task_ids"][0]
    _report(node, node.take()[0], log=Log(b"x", b"", 1))
    ledger.collect()
    ledger.sweep(after=1.9 * DAY)
    assert _rows(ledger) == 1
    ledger.sweep(after=0.2 * DAY)
    assert _rows(ledger) == 0
    with pytest.raises(NotFound):
        _log(ledger, task_id)


def test_a_log_is_its_owners(ledger: Ledger, lab: FakeEndpoint) -> None:
    task_id = ledger.submit(lab)["task_ids"][0]
    with pytest.raises(NotFound):
        logs.log_from(ledger.fed, ledger.user("eve"), task_id, 0, None)


def test_an_endpoint_writes_into_the_logs_of_its_own_tasks_only(
    ledger: Ledger, lab: FakeEndpoint, node: FakeNode
) -> None:
    task_id = ledger.submit(lab)["task_ids"][0]
    (bundle,) = node.take()
    stranger = ledger.endpoint("other").node()
    stranger.held[bundle.id] = bundle
    _report(stranger, bundle, Status.RUNNING, log=Log(b"forged", b"", 6))
    ledger.collect()
    assert _log(ledger, task_id)["text"] == ""


def test_too_much_of_it_is_cut(ledger: Ledger, lab: FakeEndpoint, node: FakeNode) -> None:
    task_id = ledger.submit(lab)["task_ids"][0]
    much = 2 << 20
    _report(node, node.take()[0], log=Log(b"h" * much, b"t" * much, 3 * much))
    ledger.collect()
    found = _log(ledger, task_id)
    assert len(found["text"]) < (1 << 20) + 100 and found["size"] == 3 * much
    assert logs.GAP.format(3 * much - (1 << 20)) in found["text"]


@pytest.mark.parametrize(
    ("log", "offset", "whole", "text", "following"),
    [
        (Log(b"abc", b"", 3), 0, True, "abc", 3),
        (Log(b"abc", b"def", 6), 0, True, "abcdef", 6),
        (Log(b"abc", b"def", 6), 4, True, "ef", 6),
        (Log(b"abc", b"xyz", 10), 0, True, f"abc\n{logs.GAP.format(4)}\nxyz", 10),
        (Log(b"ab\n", b"xyz", 10), 0, True, f"ab\n{logs.GAP.format(4)}\nxyz", 10),
        (Log(b"abc", b"xyz", 10), 5, True, f"{logs.GAP.format(2)}\nxyz", 10),
        (Log(b"abc", b"xyz", 10), 8, True, "yz", 10),
        (Log(b"", b"", 7), 0, True, f"{logs.GAP.format(7)}\n", 7),
        (Log("grü".encode()[:3], b"", 3), 0, False, "gr", 2),
        (Log("grü".encode()[:3], b"", 3), 0, True, "gr\ufffd", 3),
        (Log("grü€".encode()[:6], b"", 6), 0, False, "grü", 4),
        (Log(b"\xff\xff\xff\xff", b"", 4), 0, False, "\ufffd" * 3, 3),
    ],
)
def test_cutting_a_log(log: Log, offset: int, whole: bool, text: str, following: int) -> None:
    assert logs.cut(log, offset, whole=whole) == (text, following)


def test_places_and_uses_are_recorded(ledger: Ledger, lab: FakeEndpoint, node: FakeNode) -> None:
    answer = ledger.submit(lab, 2)
    place = Place("node7", 4711, 3)
    used = {"cpu": 0.5, "max_rss": 1 << 20}
    calls = [(bundle, call) for bundle in node.take() for call in bundle.calls]
    (first, short), (second, long) = calls
    node.report({first.id: [outcome(first, short, place=place)]})
    node.report({second.id: [outcome(second, long, place=place, wall=0.6, usage=used)]})
    ledger.collect()
    where = {"host": "node7", "pid": 4711, "slot": 3}
    assert ledger.task(short.task_id)["usage"] == where
    assert ledger.task(long.task_id)["usage"] == {**where, **used}
    assert ledger.task(long.task_id)["queued"] >= 0
    results = {r["task_id"]: r for r in ledger.results(answer["group_id"])["results"]}
    assert results[long.task_id]["usage"] == {**where, **used}
    assert results[short.task_id]["queued"] == ledger.task(short.task_id)["queued"]


def test_a_summary_of_a_function(ledger: Ledger, lab: FakeEndpoint, node: FakeNode) -> None:
    empty = samples.summary(ledger.fed, ledger.me, ledger.function_id)
    assert empty["calls"] == 0 and empty["quantities"]["wall"] is None
    walls = [number / 100 for number in range(1, 101)]
    ids = ledger.submit(lab, 100)["task_ids"]
    place = dict(zip(ids, walls, strict=True))
    while bundles := node.take():
        for bundle in bundles:
            for call in bundle.calls:
                used = {"cpu": place[call.task_id] / 2} if place[call.task_id] > 0.5 else None
                node.report({bundle.id: [outcome(bundle, call, wall=place[call.task_id], usage=used)]})
                ledger.collect()
    found = samples.summary(ledger.fed, ledger.me, ledger.function_id)
    wall, cpu = found["quantities"]["wall"], found["quantities"]["cpu"]
    # one may have overwritten another
    assert 60 <= found["calls"] <= 100 and wall["calls"] == found["calls"]
    assert 0.35 <= wall["p50"] <= 0.65 and 0.85 <= wall["p95"] <= 1.0 and wall["max"] <= 1.0
    assert 25 <= cpu["calls"] <= 50 and cpu["max"] <= 0.5
    assert found["quantities"]["max_rss"] is None and found["quantities"]["output"]["max"] == 0
    with pytest.raises(NotFound):
        samples.summary(ledger.fed, ledger.user("eve"), ledger.function_id)
    functions.delete(ledger.fed, ledger.me, ledger.function_id)
    assert _rows(ledger, sample_table) == 0


def test_a_sample_stays_small_and_takes_few_of_one_report(
    ledger: Ledger, lab: FakeEndpoint, node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "PLACES", 20)
    ledger.submit(lab, 2000)
    reports = 0
    while bundles := node.take():
        reports += 1
        node.finish(bundles)
        ledger.collect()
        assert _rows(ledger, sample_table) <= min(20, samples.PER_REPORT * reports)
    assert _rows(ledger, sample_table) > 5


def test_nonsense_in_a_resource_record_harms_nothing(
    ledger: Ledger, lab: FakeEndpoint, node: FakeNode
) -> None:
    ledger.submit(lab)
    _report(node, node.take()[0], usage={"cpu": "much", "max_rss": -1, "read": 1e300, "written": None})
    assert ledger.collect()["ended"] == 1
    quantities = samples.summary(ledger.fed, ledger.me, ledger.function_id)["quantities"]
    assert [quantities[name] for name in ("cpu", "max_rss", "read", "written")] == [None] * 4
