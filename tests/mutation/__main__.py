"""Mutation testing: ``python -m tests.mutation [--every N] [--lines A-B] [--list] [MODULE ...]``.

Changes one place of a module at a time and runs the tests that ``table.txt`` names for it, each in a forked
process that imports the changed module. Files stay unchanged. Prints every mutant that no test finds.
"""

from __future__ import annotations

import argparse
import ast
import fnmatch
import importlib.abc
import importlib.machinery
import importlib.util
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from types import CodeType, ModuleType

import pytest

from .operators import mutants

ROOT = Path(__file__).resolve().parents[2]
TABLE = Path(__file__).with_name("table.txt")
#: Imported once, before the forks; none of them is of this project.
LIBRARIES = "celery cloudpickle fakeredis flask_smorest kombu msgspec paramiko redis sqlalchemy urllib3"


class Mutated(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from code that differs from its file."""

    def __init__(self, name: str, path: Path, code: CodeType):
        self._name, self._path, self._code = name, path, code

    def find_spec(self, fullname: str, path: object, target: object = None) -> object:
        if fullname != self._name:
            return None
        return importlib.util.spec_from_file_location(fullname, self._path, loader=self)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        exec(self._code, module.__dict__)


def read_table() -> dict[str, list[str]]:
    """Return module → arguments of pytest."""
    rows = [line.split("#")[0].split() for line in TABLE.read_text().splitlines()]
    return {row[0]: row[1:] for row in rows if row}


def run(name: str, path: Path, tree: ast.Module, tests: list[str], limit: float, quiet: bool) -> str:
    """Run tests against a mutant in a forked process; return "survived", "killed" or "timeout"."""
    child = os.fork()
    if child == 0:
        os.setsid()
        silent = os.open(os.devnull, os.O_RDWR)
        for number in range(3 if quiet else 1):
            os.dup2(silent, number)
        sys.meta_path.insert(0, Mutated(name, path, compile(tree, str(path), "exec")))
        options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:faulthandler", "--durations=1"]
        os._exit(pytest.main([*options, *tests]))
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            _end_group(child)
            return "killed" if status else "survived"
        time.sleep(0.02)
    _end_group(child)
    os.waitpid(child, 0)
    return "timeout"


def _end_group(leader: int) -> None:
    """End what a run has started, the broker for example."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        pass


def mutate(name: str, tests: list[str], options: argparse.Namespace) -> int:
    """Try the mutants of one module; return how many survived."""
    base = ROOT / "sdk" if name.startswith("umbel") else ROOT
    path = base.joinpath(*name.split(".")).with_suffix(".py")
    tree = ast.parse(path.read_text())
    first, last = map(int, (options.lines or "0-999999").split("-"))
    wanted = [each for each in mutants(tree) if first <= each[0] <= last][:: options.every]
    if options.list:
        print(
            *(f"{path.relative_to(ROOT)}:{line}: {old}  ->  {new}" for line, old, new, _ in wanted), sep="\n"
        )
        return 0
    began = time.monotonic()
    if run(name, path, tree, tests, 600, False) != "survived":
        sys.exit(f"{name}: its tests fail without a mutant: {' '.join(tests)}")
    limit = 3 * (time.monotonic() - began) + 10
    print(f"{name}: {len(wanted)} mutants, tests take {time.monotonic() - began:.1f} s", flush=True)
    counts: Counter[str] = Counter()
    for line, old, new, mutant in wanted:
        result = run(name, path, mutant, tests, limit, True)
        counts[result] += 1
        if result == "survived":
            print(f"{path.relative_to(ROOT)}:{line}: {old}  ->  {new}", flush=True)
    print(f"{name}: {dict(counts)}", flush=True)
    return counts["survived"]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="names or patterns; default: all")
    parser.add_argument("--every", type=int, default=1, help="try only every Nth mutant")
    parser.add_argument("--lines", metavar="A-B", help="try only mutants of these lines")
    parser.add_argument("--list", action="store_true", help="print the mutants and run nothing")
    options = parser.parse_args()
    table = read_table()
    chosen = [m for m in table if any(fnmatch.fnmatch(m, each) for each in options.modules or ["*"])]
    if not chosen:
        parser.error(f"no such module in {TABLE}")
    os.chdir(ROOT)
    sys.path[:0] = [str(ROOT), str(ROOT / "sdk")]
    for library in LIBRARIES.split():
        importlib.import_module(library)
    return 1 if sum(mutate(name, table[name], options) for name in chosen) else 0


if __name__ == "__main__":
    sys.exit(main())
