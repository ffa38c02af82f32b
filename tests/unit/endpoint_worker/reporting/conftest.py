"""Rounds in quick succession, so that no test waits for them."""

from __future__ import annotations

import fakeredis
import pytest

from endpoint_worker.reporting import holdings


@pytest.fixture(autouse=True)
def _quick_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holdings, "ROUND_SECONDS", 0.02)
    monkeypatch.setattr(holdings, "HURRY_SECONDS", 0.01)


@pytest.fixture
def server() -> fakeredis.FakeServer:
    return fakeredis.FakeServer()
