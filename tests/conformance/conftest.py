"""The service in memory, and an executor that every test ends with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.work import Service
from umbel import Executor
from umbel.testing import LocalService

PROGRAM = """
from umbel.testing import LocalService
executor = LocalService().executor()
"""


class Memory(LocalService):
    program = PROGRAM


@pytest.fixture
def service() -> Iterator[Service]:
    with Memory(workers=4) as memory:
        yield memory


@pytest.fixture
def executor(service: Service, gate: Path) -> Iterator[Executor]:
    """An executor; whatever still waits at the gate when the test ends is let through."""
    with service.executor() as executor:
        yield executor
        gate.touch()


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A file that does not exist: calls of ``through_gate`` wait for it."""
    return tmp_path / "gate"
