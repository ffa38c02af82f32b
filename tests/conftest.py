"""Guards around every test: what a test changes is put back, what it leaves behind is an error.

Nothing in here helps a test with its work; that lives in tests/support.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.wait import wait_until
from umbel.system.processes import prctl

#: Folders whose tests need services.
E2E = {Path(__file__).parent / name for name in ("e2e", "faults")}
#: How long a test's own threads and processes may take to end after it, in seconds.
GRACE = 5.0
_SET_CHILD_SUBREAPER = 36


@pytest.fixture(scope="session", autouse=True)
def _no_home_afterwards(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What runs after the tests, for example at the exit of this process, does not see the account's home."""
    os.environ["UMBEL_HOME"] = _no_home(tmp_path_factory)


def _no_home(factory: pytest.TempPathFactory) -> str:
    return str(factory.getbasetemp() / "no-home")


@pytest.fixture(autouse=True)
def _own_environment(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """No test sees or changes the account's Umbel: its variables are gone and its home is a temporary one."""
    before, directory = dict(os.environ), Path.cwd()
    for name in list(os.environ):
        if name.startswith("UMBEL_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("UMBEL_HOME", _no_home(tmp_path_factory))
    yield
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(autouse=True)
def _signal_handlers_restored() -> Iterator[None]:
    """Signal handlers are global: one test's must not serve the next."""
    watched = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGALRM)
    before = {number: signal.getsignal(number) for number in watched}
    yield
    for number, handler in before.items():
        if signal.getsignal(number) is not handler and handler is not None:
            signal.signal(number, handler)


@pytest.fixture(autouse=True)
def _orphans_go_to_init() -> Iterator[None]:
    """A node that was created in this process made it the parent of orphans, which it would never collect."""
    yield
    prctl(_SET_CHILD_SUBREAPER, 0)


@pytest.fixture(autouse=True)
def _nothing_left_running() -> Iterator[None]:
    """A test that leaves a thread (not a daemon) or a child process fails and names it."""
    threads, children = set(threading.enumerate()), set(_children())
    yield

    def left() -> list[object]:
        new_threads = [t for t in threading.enumerate() if t not in threads and t.is_alive() and not t.daemon]
        return [*new_threads, *_new_since(children)]

    try:
        wait_until(lambda: not left(), GRACE, what="the end of what the test started")
    except AssertionError:
        names = [_describe(item) for item in left()]
        for process in _new_since(children):
            process.kill()
        pytest.fail(f"the test leaves behind: {', '.join(names)}", pytrace=False)


def _new_since(before: set[psutil.Process]) -> set[psutil.Process]:
    """Processes that came after ``before``; a service that was there may replace its own at any time."""
    found = set()
    for process in set(_children()) - before:
        try:
            if not before.intersection(process.parents()):
                found.add(process)
        except psutil.NoSuchProcess:
            continue
    return found


def _children() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            # multiprocessing keeps a helper until the interpreter ends; a zombie only waits for its parent
            helper = "resource_tracker" in " ".join(process.cmdline())
            if process.status() != psutil.STATUS_ZOMBIE and not helper:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def _describe(item: object) -> str:
    if isinstance(item, psutil.Process):
        try:
            return f"process {item.pid} ({' '.join(item.cmdline())[:120]})"
        except psutil.NoSuchProcess:
            return f"process {item.pid}"
    return repr(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """An end-to-end test whose service is missing skips on a developer's machine, but fails where CI=true."""
    report = yield
    skipped = report.skipped and not hasattr(report, "wasxfail")
    if skipped and os.environ.get("CI") == "true" and E2E.intersection(item.path.parents):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"skipped although CI=true, where nothing may be missing: {reason}"
    return report
