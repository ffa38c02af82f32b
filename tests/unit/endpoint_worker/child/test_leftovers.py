"""Which threads and processes that a call leaves behind may meet another function."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.endpoint_worker.bench import Bench

LIBRARY = """
import threading, time

def monitor():
    while True:
        time.sleep(60)

threading.Thread(target=monitor, daemon=True).start()

class Monitor(threading.Thread):
    def run(self):
        monitor()

def start(**options):
    Monitor(**options).start()

def at_exit(**options):
    threading.main_thread().join(**options)

def start_at_exit(**options):
    threading.Thread(target=at_exit, kwargs=options).start()

def wait_for_other():
    other = threading.Thread(target=monitor, daemon=True)
    other.start()
    threading.Thread(target=other.join).start()
    threading.Thread(target=lambda: other.join()).start()
"""


@pytest.fixture
def with_library(tmp_path: Path) -> Any:
    """One runner that can import ``umbel_test_monitor``, which starts a thread when imported."""
    (tmp_path / "library").mkdir()
    (tmp_path / "library/umbel_test_monitor.py").write_text(textwrap.dedent(LIBRARY))
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path / "library")}
    with Bench(tmp_path, environment=environment) as bench:
        yield bench


def of_import() -> None:
    import umbel_test_monitor  # noqa: F401


def of_class() -> None:
    import umbel_test_monitor

    umbel_test_monitor.start(daemon=True)


def of_pool() -> None:
    from concurrent.futures import ThreadPoolExecutor

    import umbel_test_monitor  # noqa: F401

    umbel_test_monitor.pool = ThreadPoolExecutor(3)
    assert list(umbel_test_monitor.pool.map(abs, range(-9, 0)))


def of_thread_pool() -> None:
    from multiprocessing.pool import ThreadPool

    import umbel_test_monitor

    umbel_test_monitor.threads = ThreadPool(2)
    assert umbel_test_monitor.threads.map(abs, [-1, -2]) == [1, 2]


def of_exit() -> None:
    import umbel_test_monitor

    umbel_test_monitor.start_at_exit()


def of_tracker() -> None:
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()


def ended_child() -> None:
    import subprocess
    import time

    import umbel_test_monitor

    umbel_test_monitor.child = subprocess.Popen(["true"])
    time.sleep(0.2)


@pytest.mark.parametrize(
    "function", [of_import, of_class, of_pool, of_thread_pool, of_exit, of_tracker, ended_child]
)
def test_a_runner_with_idle_threads_of_libraries_serves_other_functions(
    with_library: Bench, function: Callable[[], None]
) -> None:
    first = with_library.value(os.getpid)
    for _ in range(3):
        with_library.value(function)
        assert with_library.value(os.getpid) == first


def own_daemon() -> None:
    import threading
    import time

    threading.Thread(target=lambda: time.sleep(60), daemon=True).start()


def busy_pool() -> None:
    import time
    from concurrent.futures import ThreadPoolExecutor

    import umbel_test_monitor

    umbel_test_monitor.pool = ThreadPoolExecutor(1)
    umbel_test_monitor.pool.submit(lambda: time.sleep(60))
    time.sleep(0.1)


def not_a_daemon() -> None:
    import umbel_test_monitor

    umbel_test_monitor.start(daemon=False)


def waits_for_another() -> None:
    import umbel_test_monitor

    umbel_test_monitor.wait_for_other()


def waits_for_a_while() -> None:
    import umbel_test_monitor

    umbel_test_monitor.start_at_exit(timeout=60)


def raw() -> None:
    import _thread
    import time

    _thread.start_new_thread(time.sleep, (60,))


def child() -> None:
    import subprocess

    subprocess.Popen(["sleep", "60"])


@pytest.mark.parametrize(
    "function", [own_daemon, busy_pool, not_a_daemon, waits_for_another, waits_for_a_while, raw, child]
)
def test_what_may_still_work_for_its_call_meets_no_other_function(
    with_library: Bench, function: Callable[[], None]
) -> None:
    first = with_library.value(os.getpid)
    with_library.value(function)
    assert with_library.value(os.getpid) != first
