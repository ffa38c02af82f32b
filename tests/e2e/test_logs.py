"""What calls write and use, through the SDK and the commands, at a real endpoint."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.embedded import Embedded, environment
from tests.support.wait import wait_until
from umbel import ShellFunction


@pytest.fixture(scope="module")
def umbel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    with Embedded(tmp_path_factory.mktemp("logs"), workers=2) as umbel:
        yield umbel


def _command(umbel: Embedded, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", "from umbel.cli.main import main; main()", *words],
        env=environment(UMBEL_HOME=str(umbel.home)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _output(umbel: Embedded, *words: str) -> str:
    process = _command(umbel, *words)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    return out


def test_each_of_many_calls_has_its_own_log(umbel: Embedded) -> None:
    def speak(number: int) -> int:
        if number % 2:
            print("call", number)
        return number

    with umbel.executor() as executor:
        futures = [executor.submit(speak, number) for number in range(300)]
        assert [future.result(timeout=60) for future in futures] == list(range(300))
        for number in (0, 1, 2, 3, 298, 299):
            assert futures[number].log() == (f"call {number}\n" if number % 2 else "")
        task_id = futures[299].task_id
        assert task_id is not None
    assert _output(umbel, "logs", task_id) == "call 299\n"


def test_a_running_call_is_followed(umbel: Embedded, tmp_path: Path) -> None:
    def speak(folder: str) -> str:
        print("begun")
        subprocess.run(["sh", "-c", "echo from a child; echo and its error >&2"], check=True)
        while not os.path.exists(f"{folder}/go"):
            time.sleep(0.05)
        print("über, done", file=sys.stderr)
        return "result"

    with umbel.executor() as executor:
        future = executor.submit(speak, str(tmp_path))
        wait_until(lambda: future.task_id is not None, what="the call to be accepted")
        begun = "begun\nfrom a child\nand its error\n"
        wait_until(lambda: future.log() == begun, 30, what="what it wrote to be seen while it runs")
        assert not future.done()
        with _command(umbel, "logs", str(future.task_id), "--follow") as follower:
            assert follower.stdout is not None
            assert "".join(follower.stdout.readline() for _ in range(3)) == begun
            (tmp_path / "go").touch()
            assert follower.stdout.read() == "über, done\n"
        assert follower.returncode == 0
        assert future.result(timeout=60) == "result"
        assert future.log() == begun + "über, done\n"


def test_much_output_is_cut_and_the_call_goes_on(umbel: Embedded) -> None:
    def shout() -> str:
        for number in range(200_000):
            print("line", number)
        return "done"

    with umbel.executor(output=1000) as executor:
        future = executor.submit(shout)
        assert future.result(timeout=90) == "done"
        text = future.log()
    assert text.startswith("line 0\nline 1\n") and text.endswith("line 199999\n")
    assert len(text) < 1100 and " bytes omitted ..." in text


def test_what_a_failed_call_wrote_is_there(umbel: Embedded) -> None:
    def fail() -> None:
        print("last words")
        os._exit(3)

    with umbel.executor(max_attempts=1) as executor:
        future = executor.submit(fail)
        assert future.exception(timeout=60) is not None
        assert future.log() == "last words\n"
        assert future.record is not None and future.record["code"] == "WORKER_LOST"


def test_what_a_cancelled_call_wrote_is_there(umbel: Embedded) -> None:
    def sleep() -> None:
        print("before")
        time.sleep(120)

    with umbel.executor() as executor:
        future = executor.submit(sleep)
        wait_until(lambda: future.running(), 30, what="the call to run")
        assert future.cancel()
        wait_until(lambda: future.log() == "before\n", 30, what="the last words")


def test_the_record_of_a_call_and_the_summary_of_its_function(umbel: Embedded) -> None:
    def work(number: int) -> int:
        data = bytearray(50 << 20)
        data[::4096] = b"1" * len(data[::4096])
        end = time.process_time() + 0.05
        while time.process_time() < end:
            pass
        return os.getpid()

    with umbel.executor() as executor:
        futures = [executor.submit(work, number) for number in range(4)]
        pids = [future.result(timeout=60) for future in futures]
        for future, pid in zip(futures, pids, strict=True):
            assert future.record is not None
            usage = future.record["usage"]
            assert (usage["pid"], usage["host"]) == (pid, os.uname().nodename) and usage["slot"] in (0, 1)
            assert usage["max_rss"] > 50 << 20 and 0.05 <= usage["cpu"] < 5
            assert usage["user"] + usage["system"] == pytest.approx(usage["cpu"], abs=1e-5)
            assert usage["read"] >= 0 and usage["written"] >= 0
            assert future.record["queued"] >= 0 and future.record["wall"] >= 0.05
        short = executor.submit(abs, -3)
        short.result(timeout=60)
        assert short.record is not None and set(short.record["usage"]) >= {"host", "pid", "slot"}
        client = umbel.client()
        task = client.get_task(str(futures[0].task_id))
        assert futures[0].record is not None and task["usage"] == futures[0].record["usage"]
    quantities = client.function_summary(task["function_id"])["quantities"]
    assert quantities["max_rss"]["p50"] > 50 << 20 and 0.05 <= quantities["cpu"]["p95"] < 5
    assert "max_rss" in _output(umbel, "summary", task["function_id"])
    assert json.loads(_output(umbel, "summary", task["function_id"], "--json"))["calls"] >= 1


def test_a_shell_command_counts_with_its_children(umbel: Embedded) -> None:
    burn = ShellFunction(f"{sys.executable} -c 'for i in range(3_000_000): pass'")
    with umbel.executor() as executor:
        future = executor.submit(burn)
        future.result(timeout=60)
        assert future.record is not None and future.record["usage"]["cpu"] > 0.05
