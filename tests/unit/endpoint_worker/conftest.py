"""Fixtures of the endpoint worker's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.endpoint_worker.bench import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """One slot."""
    with Bench(tmp_path) as bench:
        yield bench
