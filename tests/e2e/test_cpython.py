"""CPython's own tests of executors (Debian's libpython3.11-testsuite) on a whole federation.

Left out: what needs ``max_workers`` or the names of the standard library's executors (``FOREIGN``), tests of
the class ``Future`` itself, and those of processes that die, which the endpoint replaces.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
import unittest
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.support.embedded import Embedded

SOURCE = next(Path("/usr/lib").glob("python3.*/test/test_concurrent_futures.py"), None)
MIXINS = ("ExecutorTest", "ExecutorShutdownTest", "WaitTests", "AsCompletedTests")
FOREIGN = {
    "test_max_workers_negative",
    "test_interpreter_shutdown",
    "test_submit_after_interpreter_shutdown",
    "test_hang_gh83386",
}

pytestmark = pytest.mark.skipif(SOURCE is None, reason="needs Debian's libpython3.11-testsuite")


@pytest.fixture(scope="module")
def umbel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    with Embedded(tmp_path_factory.mktemp("cpython"), workers=4) as embedded:
        yield embedded


@pytest.fixture(scope="module")
def cpython(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The module, as one of the user's own: its functions travel with the calls."""
    copy = tmp_path_factory.mktemp("tests") / "cpython_tests.py"
    assert SOURCE is not None
    shutil.copy(SOURCE, copy)
    spec = importlib.util.spec_from_file_location(copy.stem, copy)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[copy.stem] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[copy.stem]


def _suite(cpython: ModuleType, mixin: str, umbel: Embedded) -> unittest.TestSuite:
    def executor(max_workers: int) -> Any:
        return umbel.executor()

    bases = (cpython.ExecutorMixin, getattr(cpython, mixin), cpython.BaseTestCase)
    case = type(mixin, bases, {"executor_type": staticmethod(executor)})
    names = [name for name in unittest.defaultTestLoader.getTestCaseNames(case) if name not in FOREIGN]
    return unittest.TestSuite(map(case, names))


@pytest.mark.parametrize("mixin", MIXINS)
def test_the_tests_of_the_standard_library_pass(umbel: Embedded, cpython: ModuleType, mixin: str) -> None:
    result = unittest.TextTestRunner(verbosity=2).run(_suite(cpython, mixin, umbel))
    assert result.testsRun and result.wasSuccessful(), [text for _, text in result.failures + result.errors]
