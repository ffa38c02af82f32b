"""Every test in here runs over each database that the ledger is made for.

``make test`` has SQLite; ``make e2e`` (UMBEL_E2E=1) has a PostgreSQL server of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.endpoint import FakeEndpoint
from tests.support.ledger import Ledger, open_ledger

DATABASES = ["sqlite"]


@pytest.fixture(params=DATABASES)
def database_url(request: pytest.FixtureRequest) -> str:
    """URL of a new database; empty: SQLite in the home."""
    return ""


@pytest.fixture
def server_settings() -> dict[str, Any]:
    """Settings that differ from the defaults: a test parametrizes this name to have others."""
    return {}


@pytest.fixture
def ledger(tmp_path: Path, database_url: str, server_settings: dict[str, Any]) -> Iterator[Ledger]:
    """A ledger on a new database."""
    with open_ledger(tmp_path, database_url=database_url, **server_settings) as opened:
        yield opened


@pytest.fixture
def lab(ledger: Ledger) -> FakeEndpoint:
    """An endpoint of the ledger's user."""
    return ledger.endpoint("lab")
