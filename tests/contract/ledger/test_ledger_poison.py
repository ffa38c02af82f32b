"""What one endpoint pushes, whatever it is, harms this endpoint only; other errors never cost a report."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from federation.db.errors import DatabaseUnavailable
from federation.services import collector as collector_module
from federation.services import report_reader
from tests.support.endpoint import FakeEndpoint, FakeNode, outcome
from tests.support.ledger import Ledger
from umbel.protocol import names
from umbel.protocol.envelope import CONTEXT, MAGIC
from umbel.protocol.limits import INLINE_REPORT_BYTES, MAX_REPORT_BYTES
from umbel.protocol.messages import Report
from umbel.protocol.pointer import write_pointer


@pytest.fixture
def evil(ledger: Ledger) -> FakeEndpoint:
    """Another endpoint, whose owner has its keys."""
    return ledger.endpoint("evil")


def signed(endpoint: FakeEndpoint, change: Callable[[dict[str, Any]], Any] | str = lambda _: None) -> bytes:
    """A report of the endpoint with any header; a string is a header that is not JSON of Python."""
    header: dict[str, Any] = {
        "typ": "report",
        "aud": "service",
        "iat": 1.0,
        "id": names.new_id(),
        "endpoint": endpoint.id,
        "node": "n1",
        "instance": names.new_id(),
        "outcomes": {names.new_id(): [[names.new_id(), 1, "succeeded", 1.0, 1.0, None, None, None, 0]]},
    }
    if callable(change):
        change(header)
        return b"".join(endpoint.signer.seal(header))
    whole = json.loads(endpoint.signer.seal(header)[0][8:-64])
    raw = (json.dumps(whole)[:-1] + "," + change + "}").encode()
    signature = endpoint.signer._key.sign(CONTEXT + raw)
    return MAGIC + len(raw).to_bytes(4, "big") + raw + signature


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def row(*values: Any) -> Callable[[dict[str, Any]], Any]:
    """Change the outcome."""

    def change(header: dict[str, Any]) -> None:
        (rows,) = header["outcomes"].values()
        rows[0][: len(values)] = values

    return change


POISON: dict[str, Any] = {
    "surrogate as the endpoint": lambda h: h.update(endpoint="\ud800"),
    "NUL in the endpoint": lambda h: h.update(endpoint="a\0b"),
    "endpoint that is a list": lambda h: h.update(endpoint=[1]),
    "NUL in the node": lambda h: h.update(node="n\0"),
    "surrogate in the node": lambda h: h.update(node="\udfff"),
    "iat of 400 digits": '"iat": -' + "9" * 400,
    "iat too large for a float": '"iat": 1e999',
    "Infinity in said": '"said": [["t", 1, 0, 0, Infinity]]',
    "NaN as a task": '"outcomes": {"b": [[NaN, 1, "succeeded", 1, 1, null, null, null, 0]]}',
    "task nested deep": row(nested(8)),
    "header nested deeper than the stack": '"x": ' + "[" * 100_000 + "]" * 100_000,
    "attempt beyond 16 bits": row(names.new_id(), 2**31),
    "wall that is infinite": '"outcomes": {"b": [["t", 1, "succeeded", 1, 1e999, null, null, null, 0]]}',
    "payload beyond the body": row(names.new_id(), 1, "succeeded", 1.0, 1.0, None, None, None, 10**9),
    "payload before the body": row(names.new_id(), 1, "succeeded", 1.0, 1.0, None, None, None, -5),
    "places that are no places": lambda h: h.update(places={"b": [1]}),
    "items of negative size": lambda h: h.update(items=[["b", "t", 0, None, [-1]]]),
    "goodbye and nothing else of sense": lambda h: (h.clear(), h.update(typ="report", aud="service", iat=0)),
}


@pytest.mark.parametrize("poison", POISON.values(), ids=POISON.keys())
def test_a_signed_report_of_nonsense_is_rejected_by_itself(
    ledger: Ledger, lab: FakeEndpoint, node: FakeNode, evil: FakeEndpoint, poison: Any
) -> None:
    answer = ledger.submit(lab)
    node.take()
    ledger.broker.push_report(evil.id, signed(evil, poison))
    node.finish()
    evil.node("later")
    ledger.collect()
    assert ledger.state(answer) == "succeeded" and ledger.broker.reports() == 0
    assert ledger.broker.dead_letters.count() == 1
    assert ledger.broker.dead_letters.latest(evil.id)[0]["reason"]
    with ledger.fed.database.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM nodes WHERE name = 'later'").scalar() == 1


@pytest.mark.parametrize(
    "frame",
    [b"", b"x", MAGIC, MAGIC + b"\xff\xff\xff\xff" + b"x" * 100, b"UMBP", b"UMBP{}", b"UMBP" + b"[" * 200]
    + [write_pointer(names.new_id(), 10), write_pointer(names.new_id(), MAX_REPORT_BYTES + 1)]
    + [b'UMBP{"report": "../x", "size": 1}', b'UMBP{"report": 1e999, "size": 1}'],
    ids=lambda frame: repr(frame[:20]),
)
def test_any_bytes_are_rejected_by_themselves(ledger: Ledger, lab: FakeEndpoint, frame: bytes) -> None:
    ledger.broker.push_report(lab.id, frame)
    lab.node("later")
    ledger.collect()
    assert ledger.broker.reports() == 0 and ledger.broker.dead_letters.count() == 1


def test_a_report_in_the_list_of_another_endpoint_is_rejected(
    ledger: Ledger, lab: FakeEndpoint, node: FakeNode, evil: FakeEndpoint
) -> None:
    ledger.submit(lab)
    node.take()
    node.finish()
    stolen = node.last_report
    ledger.broker.wipe()
    ledger.broker.push_report(evil.id, stolen)
    report = Report(lab.id, "n1", names.new_id(), goodbye=True)
    ledger.broker.push_report(evil.id, report.seal(evil.signer, 1.0, names.new_id()))
    assert ledger.collect()["ended"] == 0
    assert len(ledger.broker.dead_letters.latest(evil.id)) == 2


def test_a_large_report_lies_in_pieces(ledger: Ledger, lab: FakeEndpoint, node: FakeNode) -> None:
    answer = ledger.submit(lab)
    (bundle,) = node.take()
    big = outcome(bundle, bundle.calls[0], payload=b"x" * 3 * INLINE_REPORT_BYTES)
    report, id = Report(lab.id, node.name, node.instance, {bundle.id: [big]}), names.new_id()
    data = report.seal(lab.signer, 1.0, id)
    key = names.parts_key(lab.id, id)
    ledger.broker.redis.setrange(key, 0, data)
    ledger.broker.push_report(lab.id, write_pointer(id, len(data)))
    ledger.collect()
    assert ledger.state(answer) == "succeeded" and not ledger.broker.redis.exists(key)


def test_large_reports_that_do_not_fit_into_one_batch_wait_for_the_next(
    ledger: Ledger, lab: FakeEndpoint, node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_reader, "READ_BYTES", 5 * INLINE_REPORT_BYTES)
    answers = [ledger.submit(lab, max_attempts=1) for _ in range(3)]
    keys = []
    for bundle in node.take():
        big = outcome(bundle, bundle.calls[0], payload=b"x" * 3 * INLINE_REPORT_BYTES)
        report, id = Report(lab.id, node.name, node.instance, {bundle.id: [big]}), names.new_id()
        data = report.seal(lab.signer, 1.0, id)
        keys.append(names.parts_key(lab.id, id))
        ledger.broker.redis.setrange(keys[-1], 0, data)
        ledger.broker.push_report(lab.id, write_pointer(id, len(data)))
    ledger.collect()
    assert [ledger.state(answer) for answer in answers] == ["succeeded"] * 3
    assert len(keys) == 3 and not ledger.broker.redis.exists(*keys)


@pytest.mark.parametrize("error", [DatabaseUnavailable("read-only"), KeyError("a bug")], ids=["db", "bug"])
def test_other_errors_cost_no_report(
    ledger: Ledger,
    lab: FakeEndpoint,
    node: FakeNode,
    monkeypatch: pytest.MonkeyPatch,
    logged_errors: list[str],
    error: Exception,
) -> None:
    other = ledger.endpoint("other")
    other_node = other.node()
    ledger.collect()
    answer, others = ledger.submit(lab), ledger.submit(other)
    for each in (node, other_node):
        each.take()
        each.finish()
    apply = collector_module.apply_reports

    def fail(fed: Any, connection: Any, reports: Any, now: float) -> Any:
        if isinstance(error, DatabaseUnavailable) or any(report.endpoint == lab.id for report in reports):
            raise error
        return apply(fed, connection, reports, now)

    with monkeypatch.context() as patch:
        patch.setattr(collector_module, "apply_reports", fail)
        try:
            ledger.collect()
        except DatabaseUnavailable:
            pass
    assert ledger.state(answer) == "dispatched" and ledger.broker.dead_letters.count() == 0
    assert [lab.id in line for line in logged_errors] == [True] * isinstance(error, KeyError)
    logged_errors.clear()
    ledger.collector._paused.clear()  # a second passes
    ledger.collect()
    assert ledger.state(answer) == ledger.state(others) == "succeeded"


def test_log_lines_about_an_endpoint_are_few(
    ledger: Ledger, evil: FakeEndpoint, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(200):
        ledger.broker.push_report(evil.id, b"x")
    ledger.collect()
    assert ledger.broker.dead_letters.count() == 200
    assert len([r for r in caplog.records if r.name == report_reader.__name__]) == 1
    assert len(ledger.broker.dead_letters.latest(evil.id)) == 20


# The queue


@pytest.mark.parametrize(
    "word", [b"", b"word", b"[]", b"{}", b'{"headers": 3}', b'{"headers": {"id": [1]}}', b"[" * 100_000]
)
def test_a_word_in_its_own_queue_harms_an_endpoint_only(
    ledger: Ledger, lab: FakeEndpoint, evil: FakeEndpoint, word: bytes
) -> None:
    evil.node()
    lab.node()
    ledger.collect()
    ledger.submit(evil)
    ledger.broker.redis.lpush(names.queue_key(evil.id), word)
    assert len(ledger.broker.queued(evil.id)) in (0, 1)
    ledger.broker.deaf = True
    lost = ledger.submit(lab)
    ledger.broker.deaf = False
    _until_sent_again(ledger, lab)
    assert ledger.state(lost) == "dispatched" and len(ledger.broker.queued(lab.id)) == 1


def _until_sent_again(ledger: Ledger, lab: FakeEndpoint) -> None:
    nodes = [FakeNode(lab, "n1", 2)]
    nodes[0].incarnation = 9
    for _ in range(6):
        for each in nodes:
            each.beat()
        ledger.collect()
        ledger.sweep(after=8)


# Order


def test_a_late_heartbeat_of_an_earlier_run_changes_nothing(
    ledger: Ledger, lab: FakeEndpoint, node: FakeNode
) -> None:
    node.beat()
    late = node.last_report
    node.restart()
    ledger.collect()
    answer = ledger.submit(lab)
    node.take()
    node.beat()
    ledger.collect()
    ledger.broker.push_report(lab.id, late)
    ledger.collect()
    assert ledger.state(answer) == "dispatched"
    node.finish()
    ledger.collect()
    assert ledger.state(answer) == "succeeded"


DESCRIPTIONS: dict[str, Any] = {
    "slots beyond 64 bits": lambda h: h.update(slots=2**62),
    "negative slots": lambda h: h.update(slots=-1),
    "slots that are a truth value": lambda h: h.update(slots=True),
    "facts nested deep": lambda h: h.update(facts={"x": nested(50)}),
    "facts with a huge integer": lambda h: h.update(facts={"x": 10**30}),
    "incarnation beyond 64 bits": lambda h: h.update(incarnation=2**70),
    "another instance": lambda h: h.update(instance=names.new_id()),
    "another endpoint": lambda h: h.update(endpoint=names.new_id()),
    "a name that cannot be stored": lambda h: h.update(node="n\0"),
    "a report": lambda h: h.update(typ="report"),
}


@pytest.mark.parametrize("poison", DESCRIPTIONS.values(), ids=DESCRIPTIONS.keys())
def test_a_description_of_nonsense_is_rejected_by_itself(
    ledger: Ledger, lab: FakeEndpoint, node: FakeNode, evil: FakeEndpoint, poison: Any
) -> None:
    instance = names.new_id()
    header = {"typ": "node", "aud": "service", "iat": 1.0, "endpoint": evil.id, "node": "n1", "facts": {}}
    header |= {"instance": instance, "incarnation": 1, "version": 1, "slots": 2}
    poison(header)
    describe(evil, instance, b"".join(evil.signer.seal(header)), b"1:1:0:0:0:0")
    evil.node("later")
    answer = ledger.submit(lab)
    ledger.collect()
    node.take()
    node.finish()
    ledger.collect()
    assert ledger.state(answer) == "succeeded"
    assert ledger.broker.dead_letters.latest(evil.id)[0]["reason"]
    assert [each["name"] for each in ledger.nodes(evil)] == ["later"]


@pytest.mark.parametrize(
    "beat", [b"", b"x", b"1:1", b"-1:1:0:0:0:0", b"1:1:0:0:1e9:0", b"9" * 100, b"1:1:0:0:nan:0", b"\xff" * 20]
)
def test_a_beat_of_nonsense_is_none(ledger: Ledger, evil: FakeEndpoint, beat: bytes) -> None:
    node = evil.node("n1")
    ledger.broker.redis.hset(names.beats_key(evil.id), node.instance, beat)
    evil.node("later")
    ledger.collect()
    assert [each["name"] for each in ledger.nodes(evil)] == ["later"]


@pytest.mark.parametrize("key", [names.beats_key, names.nodes_key, names.known_key, names.applied_key])
def test_keys_of_another_type_harm_their_endpoint_only(
    ledger: Ledger, lab: FakeEndpoint, node: FakeNode, evil: FakeEndpoint, key: Callable[[str], str]
) -> None:
    other = evil.node("n1")
    ledger.collect()
    ledger.broker.redis.delete(key(evil.id))
    ledger.broker.redis.zadd(key(evil.id), {"x": 1})
    ledger.broker.push_report(evil.id, signed(evil))
    answers = ledger.submit(lab), ledger.submit(evil)
    for _ in range(3):
        ledger.collect()
        ledger.sweep(after=5)
        node.beat()
    node.take()
    node.finish()
    ledger.collect()
    assert ledger.state(answers[0]) == "succeeded" and other.name


def test_reports_of_a_list_that_was_deleted_are_pushed_again(
    ledger: Ledger, lab: FakeEndpoint, node: FakeNode
) -> None:
    """It became garbage: what was in it is in the spools of the nodes."""
    answer = ledger.submit(lab, max_attempts=1)
    node.take()
    node.finish()
    ledger.broker.redis.set(names.reports_key(lab.id), b"garbage")
    ledger.collector.look()
    ledger.collector.collect(0.0)
    node.beat()
    ledger.collect()
    assert ledger.state(answer) == "succeeded"


def test_a_description_does_not_revive_a_node(ledger: Ledger, lab: FakeEndpoint, node: FakeNode) -> None:
    """An earlier one is written again, with the beat of then."""
    sealed = node.redis.hget(names.nodes_key(lab.id), node.instance)
    beat = node.redis.hget(names.beats_key(lab.id), node.instance)
    node.goodbye()
    ledger.collect()
    describe(lab, node.instance, sealed, beat)
    for _ in range(4):
        ledger.collect()
        ledger.sweep(after=5)
    assert not _live(ledger)


def describe(endpoint: FakeEndpoint, instance: str, sealed: bytes, beat: bytes) -> None:
    """Write a description and a beat."""
    endpoint.broker.server.hset(names.nodes_key(endpoint.id), instance, sealed)
    endpoint.broker.server.hset(names.beats_key(endpoint.id), instance, beat)


def _live(ledger: Ledger) -> bool:
    with ledger.fed.database.read() as connection:
        return bool(connection.exec_driver_sql("SELECT live FROM nodes").scalar())


def test_a_report_may_have_all_there_is(ledger: Ledger, evil: FakeEndpoint) -> None:
    """The change of nothing is accepted: what the tests above reject is what they change."""
    ledger.broker.push_report(evil.id, signed(evil))
    ledger.collect()
    assert ledger.broker.dead_letters.count() == 0
