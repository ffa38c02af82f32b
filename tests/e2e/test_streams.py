"""Calls that yield at a real endpoint: large items, and a worker that is killed under them."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.embedded import Embedded, environment
from tests.support.wait import wait_until
from umbel import TaskError
from umbel.protocol.errors import StreamRestarted

DEADLINE = 90.0
READER = """
import sys
from umbel import Client
with Client() as client:
    for item in client.stream(sys.argv[1], timeout=60):
        print(item, flush=True)
"""


@pytest.fixture(scope="module")
def umbel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    with Embedded(tmp_path_factory.mktemp("streams"), workers=2) as umbel:
        yield umbel


def count(folder: str, before: int, after: int) -> Iterator[tuple[int, int]]:
    """Yield (start, number) ``before`` times, wait for a file, and yield ``after`` more."""
    start = len(os.listdir(f"{folder}/starts"))
    open(f"{folder}/starts/{start}", "w").close()
    for number in range(before):
        yield start, number
    while not os.path.exists(f"{folder}/gate"):
        time.sleep(0.02)
    for number in range(before, before + after):
        yield start, number


@pytest.fixture
def folder(tmp_path: Path) -> str:
    (tmp_path / "starts").mkdir()
    return str(tmp_path)


def test_a_second_process_reads_while_the_call_runs(umbel: Embedded, folder: str) -> None:
    with umbel.executor() as executor:
        future = executor.submit(count, folder, 2, 1)
        wait_until(lambda: future.task_id, what="the call to be accepted")
        with subprocess.Popen(
            [sys.executable, "-c", READER, str(future.task_id)],
            env=environment(UMBEL_HOME=str(umbel.home)),
            stdout=subprocess.PIPE,
            text=True,
        ) as reader:
            assert reader.stdout is not None
            assert [reader.stdout.readline() for _ in range(2)] == ["(0, 0)\n", "(0, 1)\n"]
            Path(folder, "gate").touch()
            assert reader.stdout.read() == "(0, 2)\n"
        assert reader.returncode == 0
        assert list(future.stream(DEADLINE)) == [(0, 0), (0, 1), (0, 2)]


def test_large_items(umbel: Embedded) -> None:
    def pour(sizes: list[int]) -> Iterator[bytes]:
        for number, size in enumerate(sizes):
            yield random.Random(number).randbytes(size)

    sizes = [9 << 20, 10, 4 << 20, 9 << 20, 0, 1 << 20]
    with umbel.executor() as executor:
        found = [hashlib.sha256(item).digest() for item in executor.submit(pour, sizes).stream(DEADLINE)]
        assert found == [
            hashlib.sha256(random.Random(n).randbytes(size)).digest() for n, size in enumerate(sizes)
        ]
        for wrong in ([10, 11 << 20], [9 << 20] * 8):
            with pytest.raises(TaskError) as caught:
                list(executor.submit(pour, wrong).stream(DEADLINE))
            assert caught.value.code == "RESULT_TOO_LARGE"


def test_a_worker_killed_under_a_call_that_yields(umbel: Embedded, folder: str) -> None:
    with umbel.executor(max_attempts=2) as executor:
        future = executor.submit(count, folder, 3, 2)
        items = future.stream(DEADLINE)
        assert [next(items) for _ in range(3)] == [(0, 0), (0, 1), (0, 2)]
        umbel.kill("endpoint")
        with pytest.raises(StreamRestarted):
            next(items)
        items = future.stream(DEADLINE)
        assert [next(items) for _ in range(3)] == [(1, 0), (1, 1), (1, 2)]
        Path(folder, "gate").touch()
        assert list(items) == [(1, 3), (1, 4)]
        assert future.result(DEADLINE) == [(1, number) for number in range(5)]
        assert list(future.stream(DEADLINE)) == [(1, number) for number in range(5)]


def test_a_call_that_may_be_started_once_ends_with_its_items(umbel: Embedded, folder: str) -> None:
    def die() -> Iterator[int]:
        yield 1
        time.sleep(0.5)
        os._exit(3)

    with umbel.executor(max_attempts=1) as executor:
        items = executor.submit(die).stream(DEADLINE)
        assert next(items) == 1
        with pytest.raises(TaskError) as caught:
            next(items)
        assert caught.value.code == "WORKER_LOST"
