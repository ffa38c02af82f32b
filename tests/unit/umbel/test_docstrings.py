"""The examples in the docstrings of the SDK run and show what they print."""

from __future__ import annotations

import doctest
from pathlib import Path
from typing import Any

import pytest

import umbel
from umbel import environment, executor, serialize, shell
from umbel.protocol import environment as environments
from umbel.protocol import states
from umbel.testing import LocalService, local_service

MODULES = [environment, environments, executor, local_service, serialize, shell, states]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_examples(module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # commands make their directories there
    tests = [test for test in doctest.DocTestFinder().find(module) if test.examples]
    assert tests, f"{module.__name__} has no examples: take it off this list"
    with LocalService() as service:
        for test in tests:
            test.globs.update(umbel=umbel, Executor=service.executor)
            result = doctest.DocTestRunner().run(test)
            assert result.attempted and not result.failed, test.name
