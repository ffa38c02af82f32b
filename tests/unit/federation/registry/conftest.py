from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from federation.context import Federation
from federation.registry import users
from federation.registry.users import User
from tests.support.service import RecordingBroker, open_recording


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[tuple[Federation, RecordingBroker]]:
    fed, broker = open_recording(tmp_path)
    yield fed, broker
    fed.close()


@pytest.fixture
def fed(opened: tuple[Federation, RecordingBroker]) -> Federation:
    return opened[0]


@pytest.fixture
def broker(opened: tuple[Federation, RecordingBroker]) -> RecordingBroker:
    return opened[1]


@pytest.fixture
def ada(fed: Federation) -> User:
    return users.ensure_user(fed, "ada")


@pytest.fixture
def bob(fed: Federation) -> User:
    return users.ensure_user(fed, "bob")
