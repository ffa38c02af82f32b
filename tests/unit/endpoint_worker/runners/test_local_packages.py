"""The record of a call says which code of local packages it used."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.endpoint_worker.bench import Bench
from umbel.protocol.messages import Status
from umbel.serialization import packages

ROOT = Path(__file__).resolve().parents[4]
SOURCE = """
import time
class Config: n = 3
def double(number): return 2 * number
def slow(number):
    time.sleep(0.05)
    return number
"""


def write(root: Path, text: str = SOURCE) -> None:
    folder = root / "benchlab"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(text)
    os.utime(folder / "__init__.py", (1e9, 1e9))


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A package that is only in this program's path, older than this process."""
    write(tmp_path / "here")
    monkeypatch.syspath_prepend(str(tmp_path / "here"))
    importlib.invalidate_caches()
    packages._digests.clear(), packages._verified.clear()
    yield importlib.import_module("benchlab")
    del sys.modules["benchlab"]
    packages._digests.clear(), packages._verified.clear()


def plain(number: Any) -> str:
    return type(number).__name__


@pytest.mark.parametrize(
    "there, expected", [(SOURCE, "node"), (SOURCE + "CHANGED = 1\n", "sent"), ("", "sent"), (None, "sent")]
)
def test_the_record_names_the_code_that_was_used(
    lab: Any, tmp_path: Path, there: str | None, expected: str
) -> None:
    if there is not None:
        write(tmp_path / "there", there)
    path = os.pathsep.join([str(ROOT), str(ROOT / "sdk"), str(tmp_path / "there")])
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": path}
    with Bench(tmp_path, environment=environment) as bench:
        for function, arguments in ((lab.double, [(1,), (2,)]), (lab.slow, [(1,)]), (lab.double, [(3,)])):
            for isolation in ("", "process"):
                outcomes = bench.run(function, arguments, **({"isolation": isolation} if isolation else {}))
                assert {outcome.status for outcome in outcomes} == {Status.SUCCEEDED}
                assert [outcome.place.local for outcome in outcomes] == [{"benchlab": expected}] * len(
                    outcomes
                )
                assert (outcomes[0].usage is not None) == (function is lab.slow)
        (outcome,) = bench.run(plain, [(lab.Config(),)])
        assert outcome.place.local == {"benchlab": expected}
        # the next bundle starts anew
        assert [outcome.place.local for outcome in bench.run(plain, [(1,), (2,)])] == [None, None]
