"""Cancellations are sent in the background, all of them, and can be waited for."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.unit.umbel.scripted import ScriptedService, ScriptedTransport
from umbel import Client
from umbel.api.transport import Request
from umbel.protocol.errors import BadRequest
from umbel.submit import canceller as module
from umbel.submit.canceller import Canceller, flush_all

IDS = ["t1", "t2", "t3", "t4", "t5"]


@pytest.fixture
def service() -> ScriptedService:
    return ScriptedService()


@pytest.fixture
def canceller(service: ScriptedService) -> Iterator[Canceller]:
    canceller = Canceller(Client(transport=ScriptedTransport(service)), "g1")
    yield canceller
    assert canceller.flush(10)
    assert canceller not in module._busy


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Every request waits for it."""
    gate, send = threading.Event(), ScriptedTransport.send

    def wait(self: ScriptedTransport, request: Request) -> Any:
        gate.wait(10)
        return send(self, request)

    monkeypatch.setattr(ScriptedTransport, "send", wait)
    yield gate
    gate.set()


def test_many_cancellations_are_several_requests(
    service: ScriptedService, canceller: Canceller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_CALLS_PER_SUBMISSION", 2)
    failures: list[int] = []
    canceller.cancel(IDS)
    assert canceller.flush(10)
    assert service.cancelled == IDS
    canceller.cancel_unstarted(IDS, lambda: failures.append(1))
    assert canceller.flush(10)
    assert (service.cancelled, failures) == (IDS * 2, [])


def test_a_whole_group_is_cancelled_with_one_request(service: ScriptedService, canceller: Canceller) -> None:
    failures: list[int] = []
    canceller.cancel_unstarted(None, lambda: failures.append(1))
    canceller.cancel_group()
    assert canceller.flush(10)
    assert (service.cancelled, failures) == (["g1", "g1"], [])


def test_a_cancellation_without_an_answer_is_not_finished(
    service: ScriptedService, canceller: Canceller, gate: threading.Event
) -> None:
    for group in (False, True):
        gate.clear()
        if group:
            canceller.cancel_group()
        else:
            canceller.cancel(["t1"])
        assert not canceller.flush(0.05)
        gate.set()
        began = time.monotonic()
        assert canceller.flush(10)
        assert time.monotonic() - began < 5, "nothing has woken the one that waits"
    assert service.cancelled == ["t1", "g1"]


def test_an_exit_waits_for_cancellations(
    service: ScriptedService, canceller: Canceller, gate: threading.Event
) -> None:
    canceller.cancel(["t1"])
    exiting = threading.Thread(target=flush_all, args=(10.0,))
    exiting.start()
    exiting.join(0.1)
    assert exiting.is_alive()
    gate.set()
    exiting.join(10)
    assert service.cancelled == ["t1"]


def test_a_failure_runs_its_callback_which_cannot_wait_for_itself(
    service: ScriptedService, canceller: Canceller, monkeypatch: pytest.MonkeyPatch
) -> None:
    send, left = ScriptedTransport.send, [BadRequest("bad", code="VALIDATION_ERROR")]

    def fail(self: ScriptedTransport, request: Request) -> Any:
        if left:
            raise left.pop()
        return send(self, request)

    monkeypatch.setattr(ScriptedTransport, "send", fail)
    waited: list[bool] = []
    canceller.cancel_unstarted(["t1"], lambda: waited.append(canceller.flush(0.0)))
    canceller.cancel_unstarted(["t2"], lambda: waited.append(True))
    assert canceller.flush(10)
    assert (waited, service.cancelled) == ([False], ["t2"])
