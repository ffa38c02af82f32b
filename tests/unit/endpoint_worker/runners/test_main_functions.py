"""Functions of a user's ``__main__`` in pools of processes that a call starts."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.unit.endpoint_worker.bench import Bench

SCRIPT = """
def sq(x):
    return x * x

def pool(n):
    import multiprocessing
    with multiprocessing.get_context("fork").Pool(2) as found:
        return found.map(sq, range(n))

def executor(n):
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as found:
        return list(found.map(sq, range(n)))

def names():
    import __main__
    return hasattr(__main__, "sq")
"""


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module that claims to be ``__main__``, so that its functions travel by value."""
    module = ModuleType("__main__")
    exec(SCRIPT, vars(module))
    return module


@pytest.mark.parametrize("name", ["pool", "executor"])
def test_a_pool_of_processes_maps_a_function_of_main(bench: Bench, script: Any, name: str) -> None:
    assert bench.value(getattr(script, name), 5) == [0, 1, 4, 9, 16]
    assert bench.value(script.names) is False


def test_main_is_as_before_for_other_functions(bench: Bench, script: Any, tmp_path: Path) -> None:
    bench.value(script.pool, 1)

    def look() -> bool:
        import sys

        return hasattr(sys.modules["__main__"], "sq")

    assert bench.value(look) is False
