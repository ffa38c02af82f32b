"""Large reports go in pieces: resumable, with beats and small reports between them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fakeredis
import pytest
import redis

from endpoint_worker.reporting import sender
from endpoint_worker.reporting.outbox import Outbox
from endpoint_worker.reporting.presence import KeysLost, Origin
from endpoint_worker.reporting.sender import Sender
from tests.support.wait import wait_until
from tests.unit.endpoint_worker.reporting.service import ENDPOINT, Service, make, outcome
from umbel.protocol.envelope import unverified_header
from umbel.protocol.limits import INLINE_REPORT_BYTES, MAX_UNREAD_REPORTS, PARTS_LIFETIME
from umbel.protocol.names import applied_key, beats_key, news_channel, parts_key, reports_key
from umbel.protocol.pointer import write_pointer

ORIGIN = Origin(ENDPOINT, "n1", "i1")


class Gate:
    """A client that passes one command with a piece of a large report at a time, and may fail."""

    def __init__(self, client: fakeredis.FakeRedis):
        self._client = client
        self.permits = threading.Semaphore(0)
        self.pieces: list[int] = []
        self.error: Exception | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def strlen(self, key: str) -> Any:
        self.permits.acquire(timeout=10)
        self.pieces.append(int(self._client.strlen(key)))
        error, self.error = self.error, None
        if error is not None:
            raise error
        return self.pieces[-1]


@contextmanager
def opened(spool: Path) -> Iterator[tuple[Outbox, Gate, fakeredis.FakeRedis]]:
    with fakeredis.FakeRedis() as client:
        gate = Gate(client)
        box, _ = make(gate, spool)
        box.start()
        try:
            yield box, gate, client
        finally:
            gate.permits.release(1000)
            box.close(0.2)


def frames(client: fakeredis.FakeRedis) -> list[bytes]:
    return list(reversed(client.lrange(reports_key(ENDPOINT), 0, -1)))


def tasks(frame: bytes) -> list[str]:
    header = unverified_header(frame)
    return [row[0] for rows in header.get("outcomes", {}).values() for row in rows]


def test_small_reports_and_beats_pass_between_the_pieces(tmp_path: Path) -> None:
    with opened(tmp_path) as (box, gate, client):
        box.add("large", [outcome("t1", bytes(1_000_000))])
        gate.permits.release()
        wait_until(lambda: gate.pieces, what="the first piece")
        box.add("small", [outcome("t2")])
        service = Service(client)
        before = service.beat()
        box.beat_soon()
        gate.permits.release()
        wait_until(lambda: len(frames(client)) == 1, what="the small report")
        wait_until(lambda: service.beat() != before, what="the beat")
        assert box.unsent == ["large"] and service.held() == {"large", "small"}
        gate.permits.release(1000)
        wait_until(lambda: not box.unsent, what="all is sent")
        *_, pointer = frames(client)
        [key] = client.keys("*parts*")
        data = client.get(key)
        report_id = unverified_header(data)["id"]
        assert key.decode() == parts_key(ENDPOINT, report_id)
        assert pointer == write_pointer(report_id, len(data)) and tasks(data) == ["t1"]
        assert 0 < client.ttl(key) <= 86400


def test_an_interrupted_report_goes_on_where_it_stopped(tmp_path: Path) -> None:
    with opened(tmp_path) as (box, gate, client):
        gate.permits.release(3)
        box.add("large", [outcome("t1", bytes(2_000_000))])
        wait_until(lambda: len(gate.pieces) == 3, what="some pieces")
        gate.error = redis.ConnectionError("cut")
        gate.permits.release(1000)
        wait_until(lambda: not box.unsent, what="all is sent")
        written = [size for size in gate.pieces if size]
        assert written == sorted(written) and gate.pieces.count(0) == 1, "nothing is written twice"


def test_outcomes_of_one_bundle_keep_their_order(tmp_path: Path) -> None:
    with opened(tmp_path) as (box, gate, client):
        box.add("b1", [outcome("t1", bytes(1_000_000))])
        gate.permits.release()
        wait_until(lambda: gate.pieces, what="the first piece")
        box.add("b1", [outcome("t2")])
        gate.permits.release()
        wait_until(lambda: len(list(tmp_path.glob("*.report"))) == 2, what="the second report")
        box.add("b2", [outcome("t3")])
        gate.permits.release(1000)
        wait_until(lambda: not box.unsent, what="all is sent")
        first, second, third = frames(client)
        assert tasks(first) == ["t3"] and second.startswith(b"UMBP") and tasks(third) == ["t2"]


def test_a_slow_connection_gets_smaller_pieces_and_a_fast_one_larger(monkeypatch: pytest.MonkeyPatch) -> None:
    with fakeredis.FakeRedis() as client:
        chosen = Sender(ORIGIN, client)
        for seconds, sizes in ((0.01, sender.LARGEST_PIECE), (5.0, sender.SMALLEST_PIECE)):
            for _ in range(10):
                chosen._adapt(seconds)
            assert chosen._piece == sizes
        assert chosen.is_large(5 * sender.SMALLEST_PIECE), "so that no command takes long"


def test_nothing_is_pushed_while_the_service_does_not_read(tmp_path: Path) -> None:
    with fakeredis.FakeRedis() as client:
        client.hset(beats_key(ENDPOINT), "i1", b"")
        chosen = Sender(ORIGIN, client)
        client.lpush(reports_key(ENDPOINT), *[b"x"] * (MAX_UNREAD_REPORTS - 1))
        assert not chosen.blocked(), "it has not looked yet"
        chosen.push(b"y")
        assert chosen.blocked()
        client.ltrim(reports_key(ENDPOINT), 0, 9)
        wait_until(lambda: not chosen.blocked(), what="it looks again")


def test_positions_are_those_of_the_list_whoever_pushes() -> None:
    with fakeredis.FakeRedis() as client:
        for instance in ("i1", "i2"):
            client.hset(beats_key(ENDPOINT), instance, b"")
        first, second = Sender(ORIGIN, client), Sender(ORIGIN._replace(instance="i2"), client)
        service = Service(client)
        assert (first.push(b"a"), second.push(b"b"), first.push(b"c")) == (1, 2, 3)
        service.take(2)
        assert second.push(b"d") == 4
        service.take()
        assert first.push(b"e") == 5 and client.get(applied_key(ENDPOINT)) == b"4"


def test_a_push_notices_that_the_keys_were_lost() -> None:
    with fakeredis.FakeRedis() as client:
        chosen = Sender(ORIGIN, client)
        with pytest.raises(KeysLost):
            chosen.push(b"a")


@pytest.fixture
def client() -> Iterator[fakeredis.FakeRedis]:
    with fakeredis.FakeRedis() as client:
        client.hset(beats_key(ENDPOINT), "i1", b"")
        yield client


def test_a_report_is_announced(client: fakeredis.FakeRedis) -> None:
    with client.pubsub(ignore_subscribe_messages=True) as news:
        news.subscribe(news_channel(ENDPOINT))
        news.get_message(timeout=1)
        chosen = Sender(ORIGIN, client)
        chosen.push(b"one")
        chosen.push(b"two")
        assert frames(client) == [b"one", b"two"]
        found = [news.get_message(timeout=1) for _ in range(2)]
    assert [message and message["data"] for message in found] == [b"", b""]


def test_a_report_that_fits_one_command_goes_whole(client: fakeredis.FakeRedis) -> None:
    chosen = Sender(ORIGIN, client)
    chosen._piece = sender.LARGEST_PIECE
    assert [chosen.is_large(INLINE_REPORT_BYTES + more) for more in (0, 1)] == [False, True]
    chosen._piece = sender.SMALLEST_PIECE
    assert [chosen.is_large(4 * sender.SMALLEST_PIECE + more) for more in (0, 1)] == [False, True]


def test_pieces_follow_each_other_and_the_pointer_comes_last(
    client: fakeredis.FakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = Sender(ORIGIN, client)
    monkeypatch.setattr(chosen, "_adapt", lambda _: None)
    data = bytes(range(256)) * 600  # two pieces and a part of one
    key = parts_key(ENDPOINT, "r1")
    sizes = []
    for position in (None, None, 1):
        assert chosen.advance("r1", data) == position
        sizes.append(client.strlen(key))
        assert 86000 < client.ttl(key) <= PARTS_LIFETIME
    assert sizes == [sender.FIRST_PIECE, 2 * sender.FIRST_PIECE, len(data)] and client.get(key) == data
    assert frames(client) == [write_pointer("r1", len(data))]
    # a run that ended before the pointer was pushed
    client.delete(reports_key(ENDPOINT))
    assert Sender(ORIGIN, client).advance("r1", data) == 1
    assert frames(client) == [write_pointer("r1", len(data))] and client.get(key) == data


@pytest.mark.parametrize(
    ("seconds", "factor"),
    [(0.0, 2.0), (sender.FAST, 1.0), (0.5, 1.0), (sender.SLOW, 1.0), (sender.SLOW + 0.1, 0.5)],
)
def test_the_next_piece_has_the_size_for_the_speed_of_the_last(
    client: fakeredis.FakeRedis, seconds: float, factor: float
) -> None:
    chosen = Sender(ORIGIN, client)
    chosen._adapt(seconds)
    assert chosen._piece == factor * sender.FIRST_PIECE


def test_the_speed_is_that_of_a_piece(client: fakeredis.FakeRedis, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = Sender(ORIGIN, client)
    clock = iter([1000.0, 1000.05, 1000.0, 1003.0])
    monkeypatch.setattr(sender, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    for size in (2 * sender.FIRST_PIECE, sender.FIRST_PIECE):
        assert not chosen.advance("r1", bytes(1_000_000))
        assert chosen._piece == size


@pytest.mark.parametrize("error", [redis.TimeoutError("silence"), redis.ConnectionError("cut")])
def test_a_piece_that_fails_is_followed_by_a_smaller_one(
    client: fakeredis.FakeRedis, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    chosen = Sender(ORIGIN, client)

    def fail(_: str) -> None:
        raise error

    monkeypatch.setattr(client, "strlen", fail)
    sizes = []
    for _ in range(5):
        with pytest.raises(type(error)):
            chosen.advance("r1", bytes(1_000_000))
        sizes.append(chosen._piece)
    assert sizes == [max(sender.SMALLEST_PIECE, sender.FIRST_PIECE >> step) for step in range(1, 6)]


def test_a_full_list_is_looked_at_now_and_then(
    client: fakeredis.FakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "MAX_UNREAD_REPORTS", 2)
    now, looks = [1000.0], []
    monkeypatch.setattr(sender, "time", SimpleNamespace(monotonic=lambda: now[0]))
    llen = client.llen
    monkeypatch.setattr(client, "llen", lambda key: (looks.append(key), llen(key))[1])
    chosen = Sender(ORIGIN, client)
    chosen.push(b"1")
    assert not chosen.blocked() and not looks, "there is room"
    chosen.push(b"2")
    assert chosen.blocked() and looks == [reports_key(ENDPOINT)]
    now[0] += sender.LOOK_INTERVAL - 0.1
    assert chosen.blocked() and len(looks) == 1
    client.rpop(reports_key(ENDPOINT))
    now[0] += 0.1
    assert not chosen.blocked() and len(looks) == 2
    now[0] += 10
    assert not chosen.blocked() and len(looks) == 2
