"""Which tests execute which lines of a module: only these can find a mutant of a line."""

from __future__ import annotations

import importlib
import importlib.abc
import json
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

#: Stands for all tests: lines that are executed for several of them, or in between.
ALL = "*"
#: Packages whose modules are imported before the forks.
OURS = ("umbel.", "federation.", "webapp.", "endpoint_worker.", "tests.support.")


class Recorder:
    """A plugin that writes which tests execute which lines of ``source``, their times, and all imports."""

    def __init__(self, source: Path, answer: Path):
        self._source, self._answer = str(source), answer
        self._test = ALL
        self._lines: dict[str, set[int]] = defaultdict(set)
        self._seconds: dict[str, float] = {}

    def pytest_sessionstart(self) -> None:
        threading.settrace(self._trace)
        sys.settrace(self._trace)

    def pytest_sessionfinish(self) -> None:
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]
        lines = {test: sorted(found) for test, found in self._lines.items()}
        modules = sorted(name for name in sys.modules if name.startswith(OURS))
        self._answer.write_text(json.dumps([lines, self._seconds, modules]))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        self._test, began = item.nodeid, time.monotonic()
        try:
            return (yield)
        finally:
            self._seconds[item.nodeid] = time.monotonic() - began
            self._test = ALL

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Generator[None, Any, Any]:
        test = self._test
        if fixturedef.scope != "function":
            self._test = ALL
        try:
            return (yield)
        finally:
            self._test = test

    def _trace(self, frame: Any, event: str, arg: object) -> Any:
        if frame.f_code.co_filename != self._source:
            return None
        self._lines[self._test].add(frame.f_lineno)
        return self._trace


class Selection:
    """A plugin that runs ``tests`` in their order, and writes which one fails."""

    def __init__(self, tests: Sequence[str], answer: Path):
        self._places = {test: place for place, test in enumerate(tests)}
        self._answer = answer

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted(
            (item for item in items if item.nodeid in self._places),
            key=lambda item: self._places[item.nodeid],
        )

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._answer.write_text(report.nodeid)


class Coverage:
    """The tests of a module, after they were run without a mutant."""

    def __init__(self, answer: Path):
        self._lines, self._seconds, self.modules = json.loads(answer.read_text())
        self._kills: Counter[str] = Counter()

    def of(self, lines: Iterable[int] | None) -> list[str]:
        """Return the tests that execute one of these lines (None: all tests), likely and fast ones first."""
        tests = set(self._seconds)
        if lines is not None and not set(lines) & set(self._lines.get(ALL, ())):
            tests = {each for each in tests if set(lines) & set(self._lines.get(each, ()))}
        key = {each: (-self._kills[each], self._seconds[each]) for each in tests}
        # those of one file follow each other, since they share fixtures
        first: dict[str, tuple[float, float]] = {}
        for each in sorted(tests, key=key.__getitem__):
            first.setdefault(each.split("::")[0], key[each])
        return sorted(tests, key=lambda each: (first[each.split("::")[0]], key[each]))

    def found(self, test: str) -> None:
        """Note that a test has found a mutant."""
        self._kills[test] += 1


class _Missing(importlib.abc.MetaPathFinder):
    """Makes a module look as if it were not there."""

    def __init__(self, name: str):
        self._name = name

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        if fullname == self._name:
            raise ImportError(fullname)


def import_others(name: str, modules: Iterable[str]) -> None:
    """Import those of the modules that do not depend on the one of this name."""
    missing = _Missing(name)
    sys.meta_path.insert(0, missing)
    try:
        for each in modules:
            try:
                importlib.import_module(each)
            except ImportError:
                pass
    finally:
        sys.meta_path.remove(missing)
