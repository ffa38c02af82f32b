"""Programs that submit calls and end while the service is away lose none of them."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.embedded import ROOT, Embedded, environment
from tests.support.wait import wait_until

PROGRAM = """
import sys
import signal
# a test run in the background of a shell ignores it, and so would this program
signal.signal(signal.SIGINT, signal.default_int_handler)
from umbel import Executor

def work(number, path):
    import os
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, b"%d\\n" % number)
    os.close(file)

executor = Executor("local", submit_timeout=float(sys.argv[3]))
for number in range(int(sys.argv[1])):
    executor.submit(work, number, sys.argv[2])
print("submitted", flush=True)
"""


@pytest.fixture
def umbel(tmp_path: Path) -> Iterator[Embedded]:
    with Embedded(tmp_path, workers=2) as embedded:
        yield embedded


def program(umbel: Embedded, *words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *map(str, words)],
        env=environment(UMBEL_HOME=str(umbel.home)),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def flush(umbel: Embedded, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from umbel.cli.main import main; main()", "flush", *words],
        env=environment(UMBEL_HOME=str(umbel.home)),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


def done(path: Path) -> Counter[int]:
    return Counter(map(int, path.read_text().split())) if path.exists() else Counter()


def test_calls_of_a_program_that_ends_while_the_service_is_stopped(umbel: Embedded, tmp_path: Path) -> None:
    path = tmp_path / "done"
    umbel.stop()
    ended = program(umbel, 5000, path, 1.0)
    output, errors = ended.communicate(timeout=60)
    assert output == "submitted\n"
    assert ended.returncode == 120, errors
    assert "5000 of 5000 calls were not submitted" in errors and "umbel flush" in errors
    files = list((umbel.home / "spool").glob("*.calls"))
    token = umbel.account()["token"].encode()
    assert files and all(file.stat().st_mode & 0o777 == 0o600 for file in files)
    assert not any(token in file.read_bytes() for file in files)
    assert flush(umbel).returncode == 3, "the service is still away"
    umbel.start()
    sent = flush(umbel)
    assert sent.returncode == 0 and "5000 calls" in sent.stdout, sent.stderr
    assert "0 calls" in flush(umbel).stdout
    wait_until(lambda: len(done(path)) == 5000, 30, what="all calls")
    assert set(done(path).values()) == {1}


def test_a_request_that_was_stopped_half_way_runs_once(umbel: Embedded, tmp_path: Path) -> None:
    path = tmp_path / "done"
    web = psutil.Process(umbel.pid("web"))
    web.suspend()
    try:
        ended = program(umbel, 500, path, 120.0)
        assert ended.stdout is not None and ended.stdout.readline() == "submitted\n"
        assert ended.stderr is not None and "waiting up to" in ended.stderr.readline()
        ended.send_signal(signal.SIGINT)
        _, errors = ended.communicate(timeout=30)
    finally:
        web.resume()
    assert ended.returncode == 120, errors
    # the next program of this user sends them
    other = program(umbel, 1, tmp_path / "other", 20.0)
    other.communicate(timeout=60)
    wait_until(lambda: len(done(path)) == 500 or (flush(umbel) and False), 30, what="all calls")
    assert set(done(path).values()) == {1}
