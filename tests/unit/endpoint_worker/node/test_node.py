"""A node without Celery and without a broker: nothing unexpected ends its threads or loses a bundle."""

from __future__ import annotations

import gc
import json
import time
import weakref
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fakeredis
import pytest

from endpoint_worker.config import settings
from endpoint_worker.config.directory import Credentials, EndpointDirectory
from endpoint_worker.node import node as node_module
from endpoint_worker.node.node import Node
from tests.support.wait import wait_until
from tests.unit.endpoint_worker.bench import ENDPOINT, make_bundle
from umbel.protocol import envelope, limits, names
from umbel.protocol.envelope import Signer, new_private_key
from umbel.protocol.messages import Outcome, Status
from umbel.system import threads

SERVICE = Signer(new_private_key())


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Iterator[fakeredis.FakeRedis]:
    server = fakeredis.FakeServer()
    monkeypatch.setattr(node_module, "connect", lambda *_, **__: fakeredis.FakeRedis(server=server))
    monkeypatch.setattr(limits, "HEARTBEAT_INTERVAL", 0.05)
    monkeypatch.setattr(threads, "FIRST_PAUSE", 0.01)
    with fakeredis.FakeRedis(server=server) as client:
        yield client


@pytest.fixture
def node(tmp_path: Path, broker: fakeredis.FakeRedis) -> Iterator[Node]:
    directory = EndpointDirectory(tmp_path, "lab")
    directory.write(
        Credentials(ENDPOINT, "lab", "http://127.0.0.1:9", "redis://127.0.0.1:1/0", SERVICE.public_key),
        new_private_key(),
        settings.template("lab", slots=1),
    )
    chosen = settings.load(directory.settings_file, "lab", slots=1)
    node = Node(directory, chosen, "n1")
    node.start_runners()
    try:
        yield node
    finally:
        node.close()


def message(broker: fakeredis.FakeRedis) -> tuple[str, str]:
    """A bundle's id, and the body of the message with it."""
    bundle, function = make_bundle(pow, [(2, 3)])
    broker.set(names.function_key(ENDPOINT, bundle.function.sha256), function)
    head, body = bundle.seal(SERVICE, time.time())
    return bundle.id, json.dumps([[b64encode(head).decode(), b64encode(body).decode()], {}, {}])


def watch(node: Node, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Outcome]]:
    """The outcomes that the node reports, by bundle."""
    said: dict[str, list[Outcome]] = {}
    monkeypatch.setattr(node.outbox, "add", lambda bundle, found: said.setdefault(bundle, []).extend(found))
    return said


@pytest.mark.parametrize("method", ["_cancelled.poll", "_adoption.poll", "clock.measure"])
def test_upkeep_goes_on_after_an_unexpected_error(
    node: Node, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    errors: list[BaseException] = [ValueError("a bug"), SystemExit()]
    leases: list[object] = []

    def flawed(*_: Any) -> None:
        if errors:
            raise errors.pop()

    target, _, name = f"node.{method}".rpartition(".")
    monkeypatch.setattr(
        {"node._cancelled": node._cancelled, "node._adoption": node._adoption, "node.clock": node.clock}[
            target
        ],
        name,
        flawed,
    )
    monkeypatch.setattr(node.outbox, "renew_lease", leases.append)
    node._upkeep.start()
    wait_until(lambda: not errors and len(leases) > 3, what="further rounds")


def test_a_bundle_that_fails_unexpectedly_is_reported_as_lost(
    node: Node, broker: fakeredis.FakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, ended = watch(node, monkeypatch), []
    monkeypatch.setattr(node.router, "route", lambda job: [][1])
    bundle, raw = message(broker)
    node.callbacks.start()
    node.receive(raw, lambda *_: None, lambda failure: ended.append(failure))
    wait_until(lambda: ended, what="the end of the message")
    (outcome,) = said[bundle]
    assert outcome.status == Status.LOST and "IndexError" in (outcome.message or "")
    assert ended == ["1 of 1 calls failed: WORKER_LOST"]


def test_a_bundle_that_has_ended_is_released_without_a_search_for_cycles(
    node: Node, broker: fakeredis.FakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs: list[weakref.ref[Any]] = []
    ends: list[Any] = []

    def route(job: Any) -> None:
        jobs.append(weakref.ref(job))
        ends.append(job.on_done)

    monkeypatch.setattr(node.router, "route", route)
    ended: list[str] = []
    gc.collect()
    gc.disable()
    try:
        node.receive(message(broker)[1], lambda *_: None, ended.append)
        assert jobs[0]() is not None
        ends.pop()()
        assert ended == [""] and jobs[0]() is None
    finally:
        gc.enable()


def test_a_message_that_cannot_be_opened_ends_only_itself(
    node: Node, broker: fakeredis.FakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, ended = watch(node, monkeypatch), []
    monkeypatch.setattr(node.intake, "open", lambda raw: {}["a bug"])
    node.callbacks.start()
    node.receive("{}", lambda *_: None, lambda failure: ended.append(failure))
    wait_until(lambda: ended, what="the end of the message")
    assert not said and "unexpected" in node.describe()[1]["problem"]


def test_with_a_full_disk_bundles_are_returned(
    node: Node, broker: fakeredis.FakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = watch(node, monkeypatch)
    monkeypatch.setattr(type(node.outbox), "full", True)
    bundle, raw = message(broker)
    node.receive(raw, lambda *_: None, lambda _: None)
    assert [outcome.status for outcome in said[bundle]] == [Status.RETURNED]


def test_callbacks_that_raise_anything_do_not_stop_the_next(node: Node) -> None:
    ran: list[str] = []
    node.callbacks.start()
    node.callbacks.submit([lambda: [][1], exit])
    node.callbacks.submit([lambda: ran.append("ran")])
    wait_until(lambda: ran, what="the next callback")


def test_a_message_that_comes_three_times_runs_once(
    node: Node, broker: fakeredis.FakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    routed: list[str] = []
    monkeypatch.setattr(node.router, "route", lambda job: routed.append(job.bundle.id))
    monkeypatch.setattr(type(node.router), "held", property(lambda _: routed))
    ended: list[Any] = []
    node.callbacks.start()
    (first, raw), (second, other) = message(broker), message(broker)
    for again in (other, raw, raw, other, raw, other):
        node.receive(again, lambda *_: None, lambda failure: ended.append(failure))
    assert routed == [second, first]
    wait_until(lambda: len(ended) == 4, what="the end of the copies")


def test_a_message_that_was_not_delivered_is_returned_unless_the_node_has_its_bundle(
    node: Node, broker: fakeredis.FakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = watch(node, monkeypatch)
    (first, raw), (second, other) = message(broker), message(broker)
    held: list[str] = [second]
    monkeypatch.setattr(type(node.router), "held", property(lambda _: held))
    for body in (raw, other, "garbage", "[[1]]"):
        node.give_back(json.dumps({"body": body, "properties": {}}).encode())
    monkeypatch.setattr(node.intake, "give_back", lambda message: {}["a bug"])
    node.give_back(b"")
    assert [outcome.status for outcome in said.pop(first)] == [Status.RETURNED] and not said


def test_a_bundle_with_reports_that_were_not_taken_is_held(node: Node, broker: fakeredis.FakeRedis) -> None:
    node.outbox.start()
    node.outbox.add("b1", [Outcome("t1", 1, Status.SUCCEEDED)])
    assert node.working() and node.held() == ["b1"]
    wait_until(lambda: not node.working(), what="it is sent")
    assert node.held() == ["b1"] and node.holds("b1")
    broker.incr(names.applied_key(ENDPOINT))
    wait_until(lambda: not node.held(), what="it is taken")


def test_the_description_has_the_packages_and_the_beat_the_load(node: Node) -> None:
    slots, facts = node.describe()
    assert slots == 1 and facts["packages"] and not {"load", "queue", "clock_ahead"} & facts.keys()
    assert node.describe() == (slots, facts), "it does not change by itself"
    load = node.load()
    assert load.busy == load.queue == 0 and load.load >= 0.0


def test_a_bundle_of_another_protocol_names_both_versions(
    node: Node, broker: fakeredis.FakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker rejects it and goes on; its description carries the reason to the service."""
    said = watch(node, monkeypatch)
    with monkeypatch.context() as newer:
        newer.setattr(envelope, "PROTOCOL_VERSION", 9)
        _, raw = message(broker)
    ended: list[Any] = []
    node.callbacks.start()
    node.receive(raw, lambda *_: None, lambda failure: ended.append(failure))
    wait_until(lambda: ended, what="the end of the message")
    assert not said
    problem = node.describe()[1]["problem"]
    assert "protocol 9" in problem and f"has {envelope.PROTOCOL_VERSION}" in problem
