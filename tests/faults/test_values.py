"""Values, code and exceptions through a whole federation: nothing old, nothing invented."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from tests.support.embedded import Embedded
from umbel import Executor


def main_program(text: str) -> dict[str, Any]:
    """Run a program whose functions belong to ``__main__``."""
    program: dict[str, Any] = {"__name__": "__main__"}
    exec(text, program)
    return program


PROGRAM = """
CONF = {"scale": 1}
class Params:
    scale = 1
    def run(self): return 1
def helper(x): return x + 1
def f(x): return helper(x), CONF["scale"], Params.scale, Params().run(), Params()
"""
CHANGES = [
    "def helper(x): return x + 100",
    "CONF['scale'] = 10",
    "Params.scale = 10",
    "Params.run = lambda self: 10",
    "helper.__code__ = (lambda x: x).__code__",
]


def test_each_call_uses_the_code_and_the_data_of_its_submission(umbel: Embedded) -> None:
    program = main_program(PROGRAM)
    f, params = program["f"], program["Params"]
    futures, expected = [], []
    with Executor("local", client=umbel.client()) as executor:
        for change in ["", *CHANGES] * 3:
            exec(change, program)
            futures += [executor.submit(f, 1) for _ in range(5)]
            expected += [f(1)[:4]] * 5
        results = [future.result(60) for future in futures]
    assert [result[:4] for result in results] == expected
    assert all(type(result[4]) is params for result in results)
    assert params.scale == 10  # old results do not change the class


def runs_a_command() -> None:
    subprocess.run([sys.executable, "-c", "import sys; sys.exit('no')"], check=True, capture_output=True)


def looks_up_bytes() -> None:
    {}[b"key"]  # type: ignore[index]


def test_exceptions_arrive_as_they_were_raised(umbel: Embedded) -> None:
    with Executor("local", client=umbel.client()) as executor:
        with pytest.raises(subprocess.CalledProcessError) as failed:
            executor.submit(runs_a_command).result(60)
        assert failed.value.stderr == b"no\n" and failed.value.stdout == b""
        with pytest.raises(KeyError) as missing:
            executor.submit(looks_up_bytes).result(60)
        assert missing.value.args == (b"key",)


def test_a_large_value_that_compresses_well_travels_both_ways(umbel: Embedded) -> None:
    value = bytes(100_000_000)
    with Executor("local", client=umbel.client()) as executor:
        assert executor.submit(lambda value: value, value).result(60) == value
