"""Bundles and reports: the records inside the envelopes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbel.protocol.envelope import Signer, Verifier
from umbel.protocol.errors import ProtocolError
from umbel.protocol.limits import BUNDLE_LIFETIME
from umbel.protocol.messages import Bundle, Call, FunctionRef, Outcome, Report, RunOptions, Status
from umbel.protocol.records import Items, Log, Place, read_items

SIGNER = Signer(bytes(range(32)))
VERIFIER = Verifier(SIGNER.public_key)
NOW = 1_800_000_000.0
FUNCTION = FunctionRef("f-1", "dock", "ab" * 32, 100)

STATUSES = [value for name, value in vars(Status).items() if name.isupper()]
seconds = st.floats(0, 2e9)
outcomes = st.builds(
    Outcome,
    task_id=st.uuids().map(str),
    attempt=st.integers(1, 100),
    status=st.sampled_from(STATUSES),
    started=seconds,
    wall=seconds,
    code=st.none() | st.sampled_from(["TASK_ERROR", "TIMEOUT"]),
    message=st.none()
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20),
    usage=st.none() | st.dictionaries(st.text("abc", max_size=5), st.integers(0, 2**40), max_size=2),
    payload=st.binary(max_size=50),
    place=st.none() | st.builds(Place, st.text("abc", max_size=5), st.integers(0, 2**31), st.integers(0, 99)),
    log=st.none() | st.builds(Log, st.binary(max_size=9), st.binary(max_size=9), st.integers(0, 2**40)),
    items=st.none()
    | st.builds(
        Items, st.integers(0, 9), st.lists(st.binary(max_size=9), max_size=5), st.none() | st.integers(0, 9)
    ),
)


def bundle(payloads: list[bytes]) -> Bundle:
    calls, offset = [], 0
    for number, payload in enumerate(payloads):
        calls.append(Call(f"task-{number}", 1, offset, len(payload)))
        offset += len(payload)
    options = RunOptions(timeout=3.0)
    return Bundle("b-1", "e-1", FUNCTION, calls, options, "ada", b"".join(payloads))


@given(st.lists(st.binary(max_size=30), min_size=1, max_size=20))
def test_a_bundle_there_and_back(payloads: list[bytes]) -> None:
    sent = bundle(payloads)
    head, body = sent.seal(SIGNER, NOW)
    received, header = Bundle.open_head(VERIFIER, head, endpoint="e-1", now=NOW)
    assert received.with_body(header, body) == sent
    assert [body[c.offset : c.offset + c.size] for c in received.calls] == payloads


def test_a_bundle_of_another_endpoint_or_of_long_ago() -> None:
    head, body = bundle([b"x"]).seal(SIGNER, NOW)
    with pytest.raises(ProtocolError):
        Bundle.open_head(VERIFIER, head, endpoint="e-2", now=NOW)
    with pytest.raises(ProtocolError, match="expired"):
        Bundle.open_head(VERIFIER, head, endpoint="e-1", now=NOW + BUNDLE_LIFETIME + 1000)
    received, header = Bundle.open_head(VERIFIER, head, endpoint="e-1", now=NOW)
    with pytest.raises(ProtocolError):
        received.with_body(header, b"y")


@pytest.mark.parametrize(
    "change",
    [
        {"calls": [["task", 1]]},
        {"calls": 3},
        {"function": {"id": "f"}},
        {"function": None},
        {"options": {"colour": "red"}},
        {"options": {"nested": 1}},
        {"options": {"nested": False}},
        {"options": None},
    ],
)
def test_a_signed_bundle_that_is_not_one(change: dict[str, Any]) -> None:
    header = {
        "typ": "bundle",
        "aud": "e-1",
        "iat": NOW,
        "id": "b",
        "function": {"id": "f", "name": "n", "sha256": "s", "size": 1},
        "options": {},
        "user": "ada",
        "calls": [],
    }
    assert Bundle.open_head(VERIFIER, SIGNER.seal(header)[0], endpoint="e-1", now=NOW)
    for broken in ({**header, **change}, {k: v for k, v in header.items() if k not in change}):
        with pytest.raises(ProtocolError):
            Bundle.open_head(VERIFIER, SIGNER.seal(broken)[0], endpoint="e-1", now=NOW)


def test_the_place_of_a_bundle_has_the_packages_of_all_its_calls() -> None:
    first, last = Place("host", 1, 0), Place("host", 1, 0, {"lab": "sent", "mine": "node"})
    rows = {
        "b-1": [
            Outcome("t-1", 1, Status.SUCCEEDED, place=first),
            Outcome("t-2", 1, Status.SUCCEEDED, place=last),
        ]
    }
    rows["b-2"] = [Outcome("t-3", 1, Status.SUCCEEDED, place=first)]
    report = Report.open(VERIFIER, Report("e-1", "n-1", "i-1", outcomes=rows).seal(SIGNER, NOW, "r-1"))
    assert report.places == {"b-1": last, "b-2": first}
    assert first.record() == {"host": "host", "pid": 1, "slot": 0}
    assert last.record()["local"] == {"lab": "sent", "mine": "node"}


@given(st.dictionaries(st.uuids().map(str), st.lists(outcomes, max_size=5), max_size=4))
def test_a_report_there_and_back(rows: dict[str, list[Outcome]]) -> None:
    data = Report("e-1", "n-1", "i-1", outcomes=rows).seal(SIGNER, NOW, "r-1")
    report = Report.open(VERIFIER, data, endpoint="e-1")
    with pytest.raises(ProtocolError, match="another endpoint"):
        Report.open(VERIFIER, data, endpoint="e-2")
    assert (report.id, report.endpoint, report.node, report.instance, report.issued) == (
        "r-1",
        "e-1",
        "n-1",
        "i-1",
        NOW,
    )
    expected = [(bundle_id, outcome) for bundle_id, found in rows.items() for outcome in found]
    assert len(report.rows) == len(expected)
    for row, (bundle_id, outcome) in zip(report.rows, expected):
        assert row.bundle_id == bundle_id
        assert row[1:9] == outcome[:8]
        assert report.body[row.offset : row.offset + row.size] == outcome.payload
    every = [outcome for _, outcome in expected]
    assert [said.log for said in report.logs] == [o.log for o in every if o.log is not None]
    streamed = [(told.bundle_id, told.task_id, told.items) for told in report.items]
    assert streamed == [(b, o.task_id, o.items) for b, o in expected if o.items is not None]


@pytest.mark.parametrize(
    "row",
    [
        ["b-1", "t-1", 0, None, [1]],
        ["b-1", "t-1", 0, None, [-1]],
        ["b-1", "t-1", 0, None, None],
        ["b-1", "t-1", "first", None, []],
        ["b-1", "t-1", 0, None],
        ["b-1", "t-1", 0, "all", []],
    ],
)
def test_items_that_a_report_does_not_hold(row: list[object]) -> None:
    with pytest.raises((ValueError, TypeError)):
        list(read_items([row], b"", 0))


def test_a_goodbye() -> None:
    report = Report.open(VERIFIER, Report("e", "n", "i", goodbye=True).seal(SIGNER, NOW, "r"))
    assert report.goodbye and report.rows == []
    assert not Report.open(VERIFIER, Report("e", "n", "i").seal(SIGNER, NOW, "r")).goodbye


@pytest.mark.parametrize(
    "change",
    [
        {"outcomes": {"b": [["too", "short"]]}},
        {"outcomes": []},
        {"outcomes": {"b": 3}},
        {"outcomes": {"no id": []}},
        {"node": 3},
        {"endpoint": None, "node": None},
        {"iat": []},
    ],
)
def test_a_signed_report_that_is_not_one(change: dict[str, Any]) -> None:
    header = {
        "typ": "report",
        "aud": "service",
        "iat": NOW,
        "id": "r",
        "endpoint": "e",
        "node": "n",
        "instance": "i",
    }
    assert Report.open(VERIFIER, b"".join(SIGNER.seal(header)))
    broken = {k: v for k, v in {**header, **change}.items() if v is not None}
    with pytest.raises(ProtocolError):
        Report.open(VERIFIER, b"".join(SIGNER.seal(broken)))


def test_a_bundle_is_no_report() -> None:
    head, body = bundle([b"x"]).seal(SIGNER, NOW)
    with pytest.raises(ProtocolError):
        Report.open(VERIFIER, head + body)
