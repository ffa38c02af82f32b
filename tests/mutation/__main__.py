"""Mutation testing: ``python -m tests.mutation [OPTION ...] [MODULE ...]``; ``--help`` lists the options.

Changes one place of a module at a time and runs those tests that execute this place, of the ones that
``table.txt`` names for the module, in a forked process that imports the changed module. Files stay unchanged.
Prints every mutant that no test finds.
"""

from __future__ import annotations

import argparse
import ast
import fnmatch
import gc
import importlib.abc
import importlib.machinery
import importlib.util
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from importlib.metadata import entry_points
from pathlib import Path
from types import CodeType, ModuleType

import pytest

from .operators import Mutant, mutants
from .selection import Coverage, Recorder, Selection, import_others

ROOT = Path(__file__).resolve().parents[2]
TABLE = Path(__file__).with_name("table.txt")
#: After a mutant that no test executes.
NO_TEST = "   (no test executes it)"
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


def run(name: str, path: Path, tree: ast.Module, tests: list[str], plugin: object, limit: float) -> str:
    """Run tests with a tree in a forked process; return "survived", "killed" or "timeout"."""
    child = os.fork()
    if child == 0:
        os.setsid()
        silent = os.open(os.devnull, os.O_RDWR)
        for number in range(1 if isinstance(plugin, Recorder) else 3):
            os.dup2(silent, number)
        sys.meta_path.insert(0, Mutated(name, path, compile(tree, str(path), "exec")))
        options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:faulthandler", "--durations=1"]
        options += ["-W", "ignore:Module already imported"]
        os._exit(pytest.main([*options, *tests], plugins=[plugin]))
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


def mutate(name: str, arguments: list[str], options: argparse.Namespace) -> int:
    """Try the mutants of one module; return how many survived."""
    base = ROOT / "sdk" if name.startswith("umbel") else ROOT
    path = base.joinpath(*name.split(".")).with_suffix(".py")
    tree = ast.parse(path.read_text())
    first, last = map(int, (options.lines or "0-999999").split("-"))
    wanted = [each for each in mutants(tree) if first <= each.lines[0] <= last][:: options.every]
    if options.list:
        print(*(f"{path.relative_to(ROOT)}:{each}" for each in wanted), sep="\n")
        return 0
    with tempfile.TemporaryDirectory() as directory:
        counts = _try_all(name, path, tree, wanted, arguments, Path(directory) / "answer")
    print(f"{name}: {dict(counts)}", flush=True)
    return counts["survived"] + counts["unused"]


def _try_all(
    name: str, path: Path, tree: ast.Module, wanted: list[Mutant], arguments: list[str], answer: Path
) -> Counter[str]:
    """Print the mutants that survive; return how many there are of each result."""
    began = time.monotonic()
    if run(name, path, tree, arguments, Recorder(path, answer), 900) != "survived":
        sys.exit(f"{name}: its tests fail without a mutant: {' '.join(arguments)}")
    tests, seconds = Coverage(answer), time.monotonic() - began
    print(f"{name}: {len(wanted)} mutants, tests take {seconds:.1f} s", flush=True)
    import_others(name, tests.modules)
    gc.freeze()
    counts: Counter[str] = Counter()
    for mutant in wanted:
        selected = tests.of(mutant.lines if mutant.traced else None)
        answer.write_text("")
        result = "unused"
        if selected:
            plugin = Selection(selected, answer)
            result = run(name, path, mutant.tree, arguments, plugin, 3 * seconds + 10)
        counts[result] += 1
        if result == "killed":
            tests.found(answer.read_text())
        elif result != "timeout":
            print(f"{path.relative_to(ROOT)}:{mutant}{'' if selected else NO_TEST}", flush=True)
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="names or patterns; default: all")
    parser.add_argument("--every", type=int, default=1, help="try only every Nth mutant")
    parser.add_argument("--lines", metavar="A-B", help="try only mutants of these lines")
    parser.add_argument("--list", action="store_true", help="print the mutants and run nothing")
    parser.add_argument("--tests", action="append", help="run these instead of those in the table")
    options = parser.parse_args()
    table = read_table()
    chosen = [m for m in table if any(fnmatch.fnmatch(m, each) for each in options.modules or ["*"])]
    if not chosen:
        parser.error(f"no such module in {TABLE}")
    os.chdir(ROOT)
    sys.path[:0] = [str(ROOT), str(ROOT / "sdk")]
    for library in LIBRARIES.split():
        importlib.import_module(library)
    for plugin in entry_points(group="pytest11"):
        plugin.load()
    return max(_apart(name, options.tests or table[name], options) for name in chosen)


def _apart(name: str, arguments: list[str], options: argparse.Namespace) -> int:
    """Try the mutants of one module in a process of its own, because of what it imports."""
    child = os.fork()
    if child == 0:
        code = 2
        try:
            code = 1 if mutate(name, arguments, options) else 0
        except SystemExit as error:
            print(error, flush=True)
        finally:
            sys.stdout.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    sys.exit(main())
