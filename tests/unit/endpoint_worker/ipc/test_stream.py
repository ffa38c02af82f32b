"""Calls that yield: items are told while the call runs, in order, each once, within bounds."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from endpoint_worker.ipc import stream
from endpoint_worker.ipc.stream import NotTransferable, Stream
from tests.support.wait import wait_until
from tests.unit.endpoint_worker.bench import Bench, Running
from umbel.protocol.limits import MAX_STREAM_BYTES, MAX_STREAM_ITEMS
from umbel.protocol.messages import Outcome, Status
from umbel.protocol.records import Items
from umbel.serialize import load_result


def _items(outcomes: list[Outcome], task_id: str | None = None) -> list[Any]:
    """What was told of a call, checked for order and gaps."""
    found: list[Any] = []
    for outcome in outcomes:
        if outcome.items is not None and outcome.task_id == (task_id or outcome.task_id):
            assert outcome.items.first == len(found)
            found += [load_result(item) for item in outcome.items.items]
    return found


def _last(running: Running) -> Outcome:
    (outcome,) = running.wait(60)
    return outcome


def test_items_are_told_while_the_call_runs(bench: Bench, tmp_path: Path) -> None:
    def count(gate: str) -> Iterator[int]:
        yield 1
        yield 2
        while not os.path.exists(gate):
            time.sleep(0.01)
        yield 3

    running = bench.start(count, [(str(tmp_path / "gate"),)])
    wait_until(lambda: _items(running.outcomes) == [1, 2], 20, what="items before the end of the call")
    assert all(o.status == Status.RUNNING for o in running.outcomes)
    (tmp_path / "gate").touch()
    last = _last(running)
    assert last.status == Status.SUCCEEDED and _items(running.outcomes) == [1, 2, 3]
    assert last.items is not None and last.items.total == 3 and load_result(last.payload) is None


def test_the_result_is_what_the_generator_returns(bench: Bench) -> None:
    def gather(n: int) -> Any:
        total = 0
        for i in range(n):
            yield i
            total += i
        return total

    running = bench.start(gather, [(n,) for n in (0, 1, 5)])
    outcomes = running.wait()
    assert [load_result(o.payload) for o in outcomes] == [0, 0, 10]
    for outcome, n in zip(outcomes, (0, 1, 5), strict=True):
        assert _items(running.outcomes, outcome.task_id) == list(range(n))
        assert outcome.items is not None and outcome.items.total == n
    # a call that returns is none of these, on the same runner
    assert [o.items for o in bench.run(abs, [(i,) for i in range(100)])] == [None] * 100


def test_an_exception_comes_after_the_items_before_it(bench: Bench) -> None:
    def fail() -> Iterator[str]:
        yield "one"
        raise ValueError("no more")

    running = bench.start(fail)
    last = _last(running)
    assert (last.status, last.code) == (Status.FAILED, "TASK_ERROR") and "no more" in str(last.message)
    assert _items(running.outcomes) == ["one"] and last.items is not None and last.items.total == 1


def test_many_items_are_few_outcomes(bench: Bench) -> None:
    def count() -> Iterator[int]:
        yield from range(10_000)

    running = bench.start(count)
    _last(running)
    assert _items(running.outcomes) == list(range(10_000))
    assert len(running.outcomes) < 200


def test_what_does_not_travel_ends_the_call(bench: Bench) -> None:
    def unserializable() -> Iterator[Any]:
        yield 1
        yield (i for i in range(3))

    def too_large() -> Iterator[bytes]:
        yield b"small"
        yield os.urandom(11 << 20)

    def too_many() -> Iterator[None]:
        while True:
            yield None

    for function, code, many, word in (
        (unserializable, "RESULT_NOT_SERIALIZABLE", 1, "generator"),
        (too_large, "RESULT_TOO_LARGE", 1, "item 2"),
        (too_many, "RESULT_TOO_LARGE", MAX_STREAM_ITEMS, f"{MAX_STREAM_ITEMS:,} items"),
    ):
        running = bench.start(function)
        last = _last(running)
        assert (last.status, last.code) == (Status.FAILED, code) and word in str(last.message)
        assert len(_items(running.outcomes)) == many


def test_a_fast_call_waits_and_nothing_is_lost(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "BACKLOG", 128 * 1024)
    monkeypatch.setattr(stream, "REPORT_BYTES", 64 * 1024)
    full = []
    add = Stream.add

    def watched(self: Stream, item: bytes) -> None:
        add(self, item)
        full.append(self._size)

    monkeypatch.setattr(Stream, "add", watched)

    def pour() -> Iterator[bytes]:
        for i in range(40):
            yield random.Random(i).randbytes(32 * 1024)

    running = bench.start(pour)
    _last(running)
    assert _items(running.outcomes) == [random.Random(i).randbytes(32 * 1024) for i in range(40)]
    # the backlog, and what one piece that was read from the socket holds
    assert 128 * 1024 <= max(full) < (128 + 256 + 64) * 1024


def test_a_call_that_is_stopped_leaves_what_it_has_yielded(bench: Bench) -> None:
    def stay(how: str) -> Iterator[str]:
        yield "first"
        if how == "die":
            time.sleep(0.3)
            os._exit(3)
        time.sleep(120)

    running = bench.start(stay, [("sleep",)], timeout=0.5)
    last = _last(running)
    assert last.code == "TIMEOUT" and _items(running.outcomes) == ["first"]
    running = bench.start(stay, [("sleep",)])
    wait_until(lambda: _items(running.outcomes) == ["first"], what="the item")
    bench.supervisor.cancel([running.bundle.calls[0].task_id])
    assert _last(running).status == Status.SKIPPED
    running = bench.start(stay, [("die",)])
    last = _last(running)
    assert last.status == Status.LOST and _items(running.outcomes) == ["first"]
    # it may run again, so nobody knows how many there are
    assert all(o.items.total is None for o in running.outcomes if o.items)


def test_nasty_generators(bench: Bench) -> None:
    def fork() -> Iterator[int]:
        yield 1
        os.fork()
        yield 2

    def shut() -> Iterator[int]:
        yield 1
        # its end goes another way than its items, and may overtake those of this moment
        time.sleep(0.3)
        os.closerange(3, 64)
        yield 2

    def stubborn() -> Iterator[int]:
        try:
            yield 1
            yield lambda: (i for i in ())  # type: ignore[misc]
            yield os.urandom(11 << 20)  # type: ignore[misc]
        finally:
            yield 3

    running = bench.start(fork)
    assert _last(running).status == Status.SUCCEEDED and _items(running.outcomes) == [1, 2]
    running = bench.start(shut)
    last = _last(running)
    assert (last.status, last.code) == (Status.FAILED, "TASK_ERROR") and "socket" in str(last.message)
    assert _items(running.outcomes) == [1]
    running = bench.start(stubborn)
    last = _last(running)
    assert last.status == Status.FAILED and len(_items(running.outcomes)) == 2
    assert bench.value(abs, -7) == 7


def test_a_stream_is_bounded_whatever_a_runner_sends() -> None:
    stream = Stream(0)
    for _ in range(10):
        stream.add(bytes(MAX_STREAM_BYTES // 8))
    pieces = stream.remaining(ended=True)
    assert sum(len(piece.items) for piece in pieces) == 8 and pieces[-1].total == 8
    stream = Stream(0)
    for _ in range(MAX_STREAM_ITEMS + 5):
        stream.add(b"")
    assert stream.remaining(ended=True)[-1].total == MAX_STREAM_ITEMS
    assert Stream(0).remaining(ended=False) == [Items(0, [])]


def test_news_are_paced() -> None:
    stream = Stream(0)
    assert stream.next_items(100.0, 0.0) is None
    stream.add(b"a")
    assert stream.next_items(100.0, 0.0) == Items(0, [b"a"])
    stream.add(b"b")
    assert stream.next_items(100.05, 0.05) is None and stream.next_items(100.5, 3600.0) is None
    assert stream.next_items(101.1, 3600.0) == Items(1, [b"b"])
    # much is told sooner
    stream.add(bytes(2 << 20))
    assert stream.next_items(101.3, 3600.0) == Items(2, [bytes(2 << 20)])


def test_send_closes_the_generator() -> None:
    closed: list[int] = []

    def generate() -> Iterator[int]:
        try:
            yield 1
        finally:
            closed.append(1)

    def refuse(_: Any) -> bytes:
        raise ValueError("no")

    with pytest.raises(NotTransferable):
        stream.send(generate(), refuse, lambda item: None)  # type: ignore[arg-type]
    assert closed == [1]
