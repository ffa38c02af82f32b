"""Large reports go in pieces: resumable, with beats and small reports between them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
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
from umbel.protocol.limits import MAX_UNREAD_REPORTS
from umbel.protocol.names import applied_key, beats_key, parts_key, reports_key
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
