"""A ledger on SQLite with a broker in memory, step by step."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.endpoint import FakeEndpoint
from tests.support.ledger import Ledger, open_ledger


class Ticks:
    """A monotonic clock that stands still."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def ticks() -> Ticks:
    """The clock of a service under test."""
    return Ticks()


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """A ledger of its own."""
    with open_ledger(tmp_path) as opened:
        yield opened


@pytest.fixture
def lab(ledger: Ledger) -> FakeEndpoint:
    """An endpoint of the ledger's user."""
    return ledger.endpoint("lab")
