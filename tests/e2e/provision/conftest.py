"""Fixtures of the provisioner's end-to-end tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .elastic import Elastic, elastic
from .machines import Account, Sshd, need


@pytest.fixture
def account() -> Iterator[Account]:
    need("sshd", "useradd")
    account = Account()
    yield account
    account.remove()


@pytest.fixture
def sshd(account: Account, tmp_path: Path) -> Iterator[Sshd]:
    sshd = Sshd(tmp_path / "sshd")
    yield sshd
    sshd.stop()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Elastic]:
    with elastic(tmp_path) as service:
        yield service
