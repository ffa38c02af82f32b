"""dask, joblib and Parsl run their work on an endpoint through the adapters of ``examples/integrations``."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.embedded import ROOT, Embedded, environment

PACKAGES = ["dask", "joblib", "parsl"]

DASK = """
import dask
from examples.integrations.dask_scheduler import dask_on

@dask.delayed
def double(number):
    return 2 * number

@dask.delayed
def total(numbers):
    return sum(numbers)

with dask_on("local", slots=2):
    assert total([double(number) for number in range(30)]).compute() == 870
    try:
        double(None).compute()
    except TypeError as error:
        print("dask", error)
"""

JOBLIB = """
import math
from joblib import Parallel, delayed, parallel_config
import examples.integrations.joblib_backend

with parallel_config("umbel", n_jobs=2):
    assert Parallel()(delayed(pow)(number, 2) for number in range(50)) == [n * n for n in range(50)]
    unordered = Parallel(return_as="generator_unordered")(delayed(math.factorial)(n) for n in range(8))
    assert sorted(unordered) == [math.factorial(n) for n in range(8)]
    try:
        Parallel()(delayed(int)(text) for text in ["1", "x", "3"])
    except ValueError as error:
        print("joblib", error)
"""

PARSL = """
import tempfile
import parsl
from parsl import python_app
from parsl.config import Config
from examples.integrations.parsl_executor import UmbelExecutor

@python_app
def double(number):
    return 2 * number

@python_app
def total(*numbers):
    return sum(numbers)

@python_app
def bad():
    raise ValueError("no")

with tempfile.TemporaryDirectory() as folder:
    with parsl.load(Config(executors=[UmbelExecutor("local")], run_dir=folder, usage_tracking=0)):
        assert total(*[double(number) for number in range(20)]).result() == 380
        try:
            bad().result()
        except ValueError as error:
            print("parsl", error)
"""


class _Elsewhere(Embedded):
    """A federation whose processes run in another interpreter."""

    python = ""

    def argv(self) -> list[str]:
        """The command line of ``up``."""
        return [self.python, *super().argv()[1:]]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter with the packages, from the index that pip is configured with, and with Umbel."""
    folder = tmp_path_factory.mktemp("libraries") / "venv"
    venv.create(folder, with_pip=True, symlinks=True)
    interpreter = str(folder / "bin" / "python")
    done = subprocess.run(
        [interpreter, "-m", "pip", "install", "--quiet", *PACKAGES],
        capture_output=True,
        text=True,
        timeout=150,
    )
    if done.returncode != 0:
        pytest.skip(f"{', '.join(PACKAGES)} cannot be installed here: {done.stderr[-300:]}")
    packages = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
    paths = [ROOT, ROOT / "sdk", *(path for path in sys.path if path.endswith("site-packages"))]
    Path(packages, "umbel-under-test.pth").write_text("".join(f"{path}\n" for path in paths))
    return interpreter


@pytest.fixture(scope="module")
def umbel(tmp_path_factory: pytest.TempPathFactory, python: str) -> Iterator[Embedded]:
    """A federation with two workers that can import the packages."""
    embedded = _Elsewhere(tmp_path_factory.mktemp("integrations"), workers=2)
    embedded.python = python
    with embedded:
        yield embedded


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("name", "program"), [("dask", DASK), ("joblib", JOBLIB), ("parsl", PARSL)])
def test_a_library_runs_its_work_on_an_endpoint(
    umbel: Embedded, python: str, tmp_path: Path, name: str, program: str
) -> None:
    file = tmp_path / f"use_{name}.py"
    file.write_text(f"if __name__ == '__main__':\n{_indented(program)}")
    environ = environment(UMBEL_HOME=str(umbel.home))
    done = subprocess.run(
        [python, file], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(name), "the error of a call must arrive as its own class"


def _indented(program: str) -> str:
    return "".join(f"    {line}\n" for line in program.splitlines())
