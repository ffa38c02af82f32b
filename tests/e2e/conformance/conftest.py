"""The tests of ``tests/conformance`` against a whole federation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.conformance.conftest import executor, gate
from tests.conformance.work import Service
from tests.support.embedded import Embedded
from umbel import Client, Executor

__all__ = ["executor", "gate", "service", "umbel"]


class Real:
    """A federation as the conformance tests want it."""

    def __init__(self, umbel: Embedded):
        self._account = umbel.account()
        self.program = f"""
import os
os.environ["UMBEL_HOME"] = {str(umbel.home)!r}
from umbel import Executor
executor = Executor("local")
"""

    def client(self) -> Client:
        return Client(**self._account)

    def executor(self, **options: Any) -> Executor:
        return Executor("local", client=self.client(), **options)


@pytest.fixture(scope="package")
def umbel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    with Embedded(tmp_path_factory.mktemp("conformance"), workers=4) as umbel:
        yield umbel


@pytest.fixture
def service(umbel: Embedded) -> Service:
    return Real(umbel)
