"""Items of tasks are stored in order, of one run at a time, once, within limits, and as long as the task."""

from __future__ import annotations

import time
from base64 import b64decode
from typing import Any

import pytest
from sqlalchemy import func, select

from federation.db.tables import items as item_table
from federation.db.tables import streams as stream_table
from federation.ledger import cancel, streams
from tests.support.endpoint import FakeEndpoint, FakeNode, outcome
from tests.support.ledger import Ledger
from umbel.protocol.errors import NotFound
from umbel.protocol.limits import MAX_STREAM_BYTES, MAX_STREAM_ITEMS
from umbel.protocol.messages import Bundle, Status
from umbel.protocol.records import Items

DAY = 86400.0


@pytest.fixture
def server_settings() -> dict[str, Any]:
    return {"retention": 2 * DAY}


def _tell(
    node: FakeNode, bundle: Bundle, first: int, *data: bytes, total: int | None = None, **how: Any
) -> None:
    """Report items of a bundle's only call, which is running unless ``total`` or ``how`` ends it."""
    status = how.pop("status", Status.RUNNING if total is None else Status.SUCCEEDED)
    (call,) = bundle.calls
    told = outcome(bundle, call, status, items=Items(first, data, total), **how)
    node.report({bundle.id: [told]})


def _restart(ledger: Ledger, lab: FakeEndpoint, node: FakeNode) -> FakeNode:
    """Let a node die with its bundles and restart; return the old node, for its late reports."""
    node.beat()
    ledger.collect()
    late = lab.node(node.name, beat=False)
    late.instance = node.instance
    node.restart()
    ledger.collect()
    ledger.sweep()
    return late


def _page(ledger: Ledger, task_id: str, after: int = 0, run: int | None = None, limit: int = 1000) -> Any:
    page = streams.items_after(ledger.fed, ledger.me, task_id, after, run, limit, time.time())
    return {**page, "items": [b64decode(text) for text in page["items"]]}


def _rows(ledger: Ledger) -> tuple[int, int]:
    with ledger.fed.database.read() as connection:
        counts = [
            connection.execute(select(func.count()).select_from(table)).scalar_one()
            for table in (stream_table, item_table)
        ]
    return counts[0], counts[1]


def test_items_come_while_the_task_runs(ledger: Ledger, lab: FakeEndpoint, node: FakeNode) -> None:
    task_id = ledger.submit(lab)["task_ids"][0]
    (bundle,) = node.take()
    nothing = {"task_id": task_id, "items": [], "cursor": 0, "total": None, "ended": False}
    assert _page(ledger, task_id) == {**nothing, "state": "dispatched", "run": 0}
    _tell(node, bundle, 0, b"a", b"", b"ccc")
    ledger.collect()
    page = _page(ledger, task_id)
    assert page == {
        **{"task_id": task_id, "state": "running", "run": 1, "total": None},
        **{"items": [b"a", b"", b"ccc"], "cursor": 3, "ended": False},
    }
    _tell(node, bundle, 3, b"d")
    _tell(node, bundle, 4, b"e", b"f", total=6)
    ledger.collect()
    page = _page(ledger, task_id, 3, 1)
    assert (page["items"], page["cursor"], page["total"], page["ended"]) == ([b"d", b"e", b"f"], 6, 6, True)
    assert [_page(ledger, task_id, after, 1)["items"] for after in (0, 1, 5, 6, 99)] == [
        [b"a", b"", b"ccc", b"d", b"e", b"f"],
        [b"", b"ccc", b"d", b"e", b"f"],
        [b"f"],
        [],
        [],
    ]


def test_a_task_that_yields_nothing_has_ended_when_it_has(
    ledger: Ledger, lab: FakeEndpoint, node: FakeNode
) -> None:
    task_id = ledger.submit(lab)["task_ids"][0]
    node.take()
    node.finish()
    ledger.collect()
    page = _page(ledger, task_id)
    assert (page["items"], page["ended"], page["run"], page["total"]) == ([], True, 0, None)


def test_pages_have_limits(ledger: Ledger, lab: FakeEndpoint, node: FakeNode) -> None:
    task_id = ledger.submit(lab)["task_ids"][0]
    (bundle,) = node.take()
    large = [bytes([n]) * (2 << 20) for n in range(8)]
    for n, item in enumerate(large):
        _tell(node, bundle, n, item)
    _tell(node, bundle, 8, *(b"%d" % n for n in range(500)), total=508)
    ledger.collect()
    page = _page(ledger, task_id)
    assert page["items"] == large[:3] and not page["ended"]
    page = _page(ledger, task_id, 7)
    assert page["items"] == [large[7], *(b"%d" % n for n in range(500))] and page["ended"]
    page = _page(ledger, task_id, 107, limit=10)
    assert page["items"] == [b"%d" % n for n in range(99, 109)] and page["cursor"] == 117
    assert not page["ended"]


def test_reports_may_come_twice_and_overtake(ledger: Ledger, lab: FakeEndpoint, node: FakeNode) -> None:
    task_id = ledger.submit(lab)["task_ids"][0]
    (bundle,) = node.take()
    _tell(node, bundle, 0, b"a", b"b")
    node.repeat()
    ledger.collect()
    node.repeat()
    ledger.collect()
    assert _page(ledger, task_id)["items"] == [b"a", b"b"]
    # the end arrives before the items that precede it
    _tell(node, bundle, 3, b"d", total=4)
    ledger.collect()
    page = _page(ledger, task_id, 2, 1)
    assert (page["items"], page["state"], page["ended"]) == ([], "succeeded", False)
    _tell(node, bundle, 2, b"c")
    ledger.collect()
    page = _page(ledger, task_id, 2, 1)
    assert (page["items"], page["ended"]) == ([b"c", b"d"], True)


def test_items_that_never_come_are_not_waited_for_for_ever(
    ledger: Ledger, lab: FakeEndpoint, node: FakeNode
) -> None:
    task_id = ledger.submit(lab)["task_ids"][0]
    (bundle,) = node.take()
    _tell(node, bundle, 0, b"a")
    _tell(node, bundle, 2, b"c", total=3)
    ledger.collect()
    assert _page(ledger, task_id)["items"] == [b"a"]
    assert not _page(ledger, task_id, 1, 1)["ended"]
    ledger.sweep(after=streams.MISSING_ITEMS_TIMEOUT + 1)
    page = _page(ledger, task_id, 1, 1)
    assert page["ended"] and (page["cursor"], page["total"]) == (1, 3)


def test_another_start_takes_over_once_it_yields(ledger: Ledger, lab: FakeEndpoint, node: FakeNode) -> None:
    answer = ledger.submit(lab, max_attempts=2)
    task_id = answer["task_ids"][0]
    (first,) = node.take()
    _tell(node, first, 0, b"a", b"b")
    ledger.collect()
    late = _restart(ledger, lab, node)
    assert ledger.state(answer) == "dispatched"
    (second,) = node.take()
    # the stored items stay readable until others replace them
    assert _page(ledger, task_id)["items"] == [b"a", b"b"]
    _tell(late, first, 2, b"c")
    ledger.collect()
    assert _page(ledger, task_id, 2, 1)["items"] == [b"c"]
    _tell(node, second, 0, b"A")
    ledger.collect()
    page = _page(ledger, task_id, 3, 1)
    assert (page["run"], page["items"], page["cursor"]) == (2, [b"A"], 1)
    # reports of the first run no longer count, not even its end: half of its items are deleted
    _tell(late, first, 3, b"d", total=4, payload=b"first")
    assert ledger.collect()["dropped"] == 1
    assert ledger.state(answer) == "running" and _page(ledger, task_id)["items"] == [b"A"]
    _tell(node, second, 1, b"B", total=2, payload=b"second")
    ledger.collect()
    assert ledger.state(answer) == "succeeded"
    page = _page(ledger, task_id)
    assert (page["run"], page["items"], page["ended"]) == (2, [b"A", b"B"], True)
    assert ledger.results(answer["group_id"])["results"][0]["result"] == b"second"
    ledger.check()


def test_the_end_of_an_earlier_start_counts_with_all_its_items(
    ledger: Ledger, lab: FakeEndpoint, node: FakeNode
) -> None:
    answer = ledger.submit(lab)
    task_id = answer["task_ids"][0]
    (first,) = node.take()
    late = _restart(ledger, lab, node)
    (second,) = node.take()
    _tell(late, first, 0, b"a")
    _tell(late, first, 1, b"b", total=2)
    ledger.collect()
    assert ledger.state(answer) == "succeeded"
    _tell(node, second, 0, b"A")
    ledger.collect()
    page = _page(ledger, task_id)
    assert (page["run"], page["items"], page["ended"]) == (1, [b"a", b"b"], True)
    ledger.check()


def test_a_retried_exception_begins_anew(ledger: Ledger, lab: FakeEndpoint, node: FakeNode) -> None:
    answer = ledger.submit(lab, retries=1)
    task_id = answer["task_ids"][0]
    (first,) = node.take()
    _tell(node, first, 0, b"a", total=1, status=Status.FAILED)
    ledger.collect()
    assert ledger.state(answer) == "dispatched"
    page = _page(ledger, task_id)
    assert page["items"] == [b"a"] and not page["ended"] and not _page(ledger, task_id, 1, 1)["ended"]
    (second,) = node.take()
    # it raises before it yields: no items of the first run are left
    _tell(node, second, 0, total=0, status=Status.FAILED)
    ledger.collect()
    page = _page(ledger, task_id, 1, 1)
    assert (page["state"], page["run"], page["items"], page["ended"]) == ("failed", 2, [], True)


def test_a_cancelled_task_keeps_what_it_yielded(ledger: Ledger, lab: FakeEndpoint, node: FakeNode) -> None:
    task_id = ledger.submit(lab)["task_ids"][0]
    (bundle,) = node.take()
    _tell(node, bundle, 0, b"a")
    ledger.collect()
    cancel.cancel_task(ledger.fed, ledger.me, task_id)
    page = _page(ledger, task_id)
    assert page["items"] == [b"a"] and _page(ledger, task_id, 1, 1)["ended"]
    _tell(node, bundle, 1, b"b", total=2, status=Status.SKIPPED)
    ledger.collect()
    page = _page(ledger, task_id)
    assert (page["items"], page["ended"], page["state"]) == ([b"a", b"b"], True, "cancelled")


def test_an_endpoint_that_lies_harms_itself_only(ledger: Ledger, lab: FakeEndpoint, node: FakeNode) -> None:
    answer = ledger.submit(lab)
    task_id = answer["task_ids"][0]
    (bundle,) = node.take()
    _tell(node, bundle, MAX_STREAM_ITEMS, b"x")
    _tell(node, bundle, -1, b"x")
    _tell(node, bundle, 2**40, b"x", b"y")
    _tell(node, bundle, 0, b"a")
    for n in range(1, 5):
        _tell(node, bundle, n, bytes(MAX_STREAM_BYTES // 4))
    ledger.collect()
    with ledger.fed.database.read() as connection:
        assert connection.execute(select(func.sum(stream_table.c.size))).scalar_one() <= MAX_STREAM_BYTES
    assert _rows(ledger) == (1, 4)
    # reports about tasks of other endpoints are ignored
    other = ledger.endpoint("other")
    stranger = other.node()
    ledger.collect()
    stranger.report({bundle.id: [outcome(bundle, bundle.calls[0], Status.RUNNING, items=Items(0, [b"?"]))]})
    ledger.collect()
    assert _page(ledger, task_id, limit=1)["items"] == [b"a"]
    ledger.check()


def test_only_its_owner_reads_it_and_it_goes_with_the_task(
    ledger: Ledger, lab: FakeEndpoint, node: FakeNode
) -> None:
    task_id = ledger.submit(lab)["task_ids"][0]
    (bundle,) = node.take()
    _tell(node, bundle, 0, b"a", total=1)
    ledger.collect()
    with pytest.raises(NotFound):
        streams.items_after(ledger.fed, ledger.user("bob"), task_id, 0, None, 10, time.time())
    ledger.sweep(after=DAY)
    assert _rows(ledger) == (1, 1) and _page(ledger, task_id)["items"] == [b"a"]
    ledger.sweep(after=2 * DAY)
    assert _rows(ledger) == (0, 0)
    with pytest.raises(NotFound):
        _page(ledger, task_id)
