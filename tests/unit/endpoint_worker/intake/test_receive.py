"""Only what the service signed for this endpoint is run."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fakeredis
import pytest
import redis

from endpoint_worker.intake.receive import FunctionCache, Intake, Unavailable
from federation.broker.celery_message import bundle_message
from tests.unit.endpoint_worker.bench import ENDPOINT, make_bundle
from umbel.protocol import limits, names
from umbel.protocol.envelope import Signer, Verifier, new_private_key
from umbel.protocol.errors import ProtocolError
from umbel.protocol.messages import Bundle

SERVICE = Signer(new_private_key())


def double(x: int) -> int:
    return 2 * x


def message(
    bundle: Bundle, *, signer: Signer = SERVICE, now: float | None = None, inline: bool = True
) -> bytes:
    """A bundle as it comes from Celery."""
    head, body = bundle.seal(signer, time.time() if now is None else now)
    args = [base64.b64encode(head).decode(), base64.b64encode(body).decode() if inline else None]
    return json.dumps([args, {}, {"callbacks": None}]).encode()


@pytest.fixture
def broker() -> Iterator[redis.Redis]:
    with fakeredis.FakeRedis() as client:
        yield client


@pytest.fixture
def intake(broker: redis.Redis, tmp_path: Path) -> Intake:
    return make_intake(broker, tmp_path)


def make_intake(broker: Any, folder: Path, clock: Callable[[], float] = time.time) -> Intake:
    return Intake(ENDPOINT, Verifier(SERVICE.public_key), FunctionCache(folder / "functions"), broker, clock)


def place(broker: redis.Redis, bundle: Bundle, function: bytes) -> None:
    broker.set(names.function_key(ENDPOINT, bundle.function.sha256), function)


def test_a_genuine_bundle_comes_through(intake: Intake, broker: redis.Redis) -> None:
    bundle, function = make_bundle(double, [(1,), (2,)])
    place(broker, bundle, function)
    assert intake.open(message(bundle)) == (bundle, function, [])


def test_a_body_beside_the_message_is_fetched_and_removed(intake: Intake, broker: redis.Redis) -> None:
    bundle, function = make_bundle(double, [("x" * 100_000,)])
    place(broker, bundle, function)
    key = names.body_key(ENDPOINT, bundle.id)
    broker.set(key, bundle.body)
    assert intake.open(message(bundle, inline=False)) == (bundle, function, [])
    assert broker.get(key) is None


def queued(bundle: Bundle, *, signer: Signer = SERVICE, encoded: bool = False, inline: bool = True) -> bytes:
    """A message in the queue, as the service or Celery writes it."""
    head, body = (base64.b64encode(each).decode() for each in bundle.seal(signer, time.time()))
    record = json.loads(bundle_message(ENDPOINT, bundle.id, head, body if inline else None, "double", 1))
    if encoded:
        record["body"] = base64.b64encode(record["body"].encode()).decode()
        record["properties"]["body_encoding"] = "base64"
    return json.dumps(record).encode()


@pytest.mark.parametrize("encoded", [True, False])
def test_a_message_that_was_not_delivered_is_verified_and_its_body_removed(
    intake: Intake, broker: redis.Redis, encoded: bool
) -> None:
    bundle, _ = make_bundle(double, [("x" * 100_000,)])
    broker.set(names.body_key(ENDPOINT, bundle.id), bundle.body)
    found = intake.give_back(queued(bundle, encoded=encoded, inline=False))
    assert (found.id, found.calls) == (bundle.id, bundle.calls)
    assert broker.get(names.body_key(ENDPOINT, bundle.id)) is None


def test_a_message_that_is_no_bundle_is_not_given_back(intake: Intake) -> None:
    bundle, _ = make_bundle(double, [(1,)])
    odd = [b"", b"7", b"{}", b"\xff", b'{"body": 1, "properties": {}}', b'{"body": "", "properties": 1}']
    for message in [*odd, queued(bundle, signer=Signer(new_private_key()))]:
        with pytest.raises(ProtocolError):
            intake.give_back(message)


def test_another_signer_is_refused(intake: Intake) -> None:
    bundle, _ = make_bundle(double, [(1,)])
    with pytest.raises(ProtocolError, match="not signed by the expected key"):
        intake.open(message(bundle, signer=Signer(new_private_key())))


def test_another_endpoints_bundle_is_refused(intake: Intake) -> None:
    bundle, _ = make_bundle(double, [(1,)])
    other = Bundle(bundle.id, names.new_id(), bundle.function, bundle.calls, body=bundle.body)
    with pytest.raises(ProtocolError, match="not a 'bundle' for"):
        intake.open(message(other))


def test_an_old_bundle_is_refused(intake: Intake) -> None:
    bundle, _ = make_bundle(double, [(1,)])
    with pytest.raises(ProtocolError, match="expired"):
        intake.open(message(bundle, now=time.time() - limits.BUNDLE_LIFETIME - 1000))


def test_another_body_is_refused(intake: Intake, broker: redis.Redis) -> None:
    bundle, function = make_bundle(double, [(1,)])
    place(broker, bundle, function)
    broker.set(names.body_key(ENDPOINT, bundle.id), b"something else")
    with pytest.raises(ProtocolError, match="not the one that was signed"):
        intake.open(message(bundle, inline=False))


@pytest.mark.parametrize(
    "raw", [b"", b"[]", b"{}", b"[[]]", b'[["!", null]]', b"[[1, 2]]", b'[["AAAA", null]]', b"[" * 100_000]
)
def test_what_is_no_bundle_is_refused(intake: Intake, raw: bytes) -> None:
    with pytest.raises(ProtocolError):
        intake.open(raw)


def test_a_missing_body_or_function_sends_the_calls_back(intake: Intake, broker: redis.Redis) -> None:
    bundle, function = make_bundle(double, [(1,)])
    with pytest.raises(Unavailable) as missing:
        intake.open(message(bundle, inline=False))
    assert (missing.value.message, missing.value.bundle.id) == ("BODY_MISSING", bundle.id)
    with pytest.raises(Unavailable, match="FUNCTION_MISSING"):
        intake.open(message(bundle))
    place(broker, bundle, function + b"changed")
    with pytest.raises(Unavailable, match="FUNCTION_MISSING"):
        intake.open(message(bundle))


def test_a_broker_that_is_gone_sends_the_calls_back(tmp_path: Path) -> None:
    with fakeredis.FakeRedis(server=(server := fakeredis.FakeServer())) as broker:
        bundle, _ = make_bundle(double, [(1,)])
        intake = make_intake(broker, tmp_path)
        server.connected = False
        for inline in (True, False):
            with pytest.raises(Unavailable, match="BROKER_UNREACHABLE"):
                intake.open(message(bundle, inline=inline))


def test_functions_are_kept_over_restarts(intake: Intake, broker: redis.Redis, tmp_path: Path) -> None:
    bundle, function = make_bundle(double, [(1,)])
    place(broker, bundle, function)
    intake.open(message(bundle))
    broker.flushall()
    assert make_intake(broker, tmp_path).open(message(bundle)).function == function


def test_a_damaged_function_on_disk_is_fetched_again(
    broker: redis.Redis, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle, function = make_bundle(double, [(1,)])
    place(broker, bundle, function)
    make_intake(broker, tmp_path).open(message(bundle))
    (tmp_path / "functions" / bundle.function.sha256).write_bytes(b"rotten")
    with caplog.at_level(logging.WARNING):
        assert make_intake(broker, tmp_path).open(message(bundle)).function == function
    assert bundle.function.sha256 in caplog.text


def test_the_function_cache_is_bounded(tmp_path: Path) -> None:
    cache = FunctionCache(tmp_path, memory=250, disk=450)
    digests = []
    for i in range(10):
        data = bytes([i]) * 100
        digests.append(hashlib.sha256(data).hexdigest())
        cache.put(digests[-1], data)
    assert cache._size <= 250
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 450
    assert cache.get(digests[-1]) == bytes([9]) * 100
    assert cache.get(digests[0]) is None
