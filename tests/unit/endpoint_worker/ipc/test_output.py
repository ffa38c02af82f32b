"""What calls write is kept, each call's own, bounded, and costs the silent nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any

import pytest

from endpoint_worker.ipc.output import Excerpt
from endpoint_worker.runners import execution
from tests.support.wait import wait_until
from tests.unit.endpoint_worker.bench import Bench, Running
from umbel.protocol.limits import DEFAULT_OUTPUT_BYTES
from umbel.protocol.messages import Outcome, Status
from umbel.protocol.records import Log


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow machine must not make calls be given back here."""
    monkeypatch.setattr(execution, "RETURN_AFTER_CALL", 60.0)
    monkeypatch.setattr(execution, "RETURN_AFTER_BUNDLE", 60.0)


def _text(outcome: Outcome) -> str:
    assert outcome.log is not None, outcome
    assert not outcome.log.tail and outcome.log.total == len(outcome.log.head)
    return outcome.log.head.decode()


def test_each_call_has_its_own_output(bench: Bench) -> None:
    def speak(i: int) -> None:
        if i % 3:
            print("call", i)
        if i % 3 == 2:
            print("warning", i, file=sys.stderr)

    outcomes = bench.run(speak, [(i,) for i in range(600)])
    for i, outcome in enumerate(outcomes):
        said = ["", f"call {i}\n", f"call {i}\nwarning {i}\n"][i % 3]
        assert (outcome.log.head.decode() if outcome.log else "") == said


def test_nothing_is_kept_of_the_silent(bench: Bench) -> None:
    assert [o.log for o in bench.run(abs, [(i,) for i in range(500)])] == [None] * 500


def test_descriptors_children_and_c_libraries_are_heard_in_order(bench: Bench) -> None:
    def speak() -> None:
        import ctypes

        print("python", end=" ")
        sys.stdout.flush()
        os.write(1, b"descriptor ")
        subprocess.run(["sh", "-c", "printf 'child '; printf 'error ' >&2"], check=True)
        ctypes.CDLL(None).printf(b"c library %d", 7)
        print("", end="\n")
        print("without a newline", end="")

    silent = bench.start(speak)
    assert _text(silent.wait()[0]) == "python descriptor child error c library 7\nwithout a newline"
    # nothing of it is taken for the next call's
    assert bench.run(abs, [(1,)])[0].log is None


def test_head_and_tail_of_much_are_kept(bench: Bench) -> None:
    def speak(lines: int) -> int:
        for number in range(lines):
            print(f"line {number}")
        return lines

    (outcome,) = bench.run(speak, [(50_000,)])
    log = outcome.log
    assert log is not None and outcome.status == Status.SUCCEEDED
    assert log.total == sum(len(f"line {n}\n") for n in range(50_000))
    assert len(log.head) + len(log.tail) == DEFAULT_OUTPUT_BYTES
    assert log.head.startswith(b"line 0\nline 1\n") and log.tail.endswith(b"line 49998\nline 49999\n")


def test_a_gigabyte_fills_neither_memory_nor_disk_and_the_call_goes_on(bench: Bench) -> None:
    def shout(total: int) -> str:
        piece = b"x" * (1 << 20)
        for _ in range(total >> 20):
            os.write(1, piece)
        os.write(2, b"the end")
        return "done"

    import psutil

    me = psutil.Process()
    before = me.memory_info().rss
    running = bench.start(shout, [(1 << 30,)])
    (outcome,) = running.wait(60)
    assert outcome.status == Status.SUCCEEDED and outcome.log is not None
    assert outcome.log.total == (1 << 30) + 7 and outcome.log.tail.endswith(b"xthe end")
    assert len(outcome.log.head) + len(outcome.log.tail) == DEFAULT_OUTPUT_BYTES
    assert me.memory_info().rss - before < 64 << 20


def test_a_bundle_may_ask_for_less_and_not_for_more(bench: Bench) -> None:
    def speak() -> None:
        print("x" * 100_000)

    for asked, kept in ((1000, 1000), (10 << 20, DEFAULT_OUTPUT_BYTES), (0, 0)):
        log = bench.run(speak, output=asked)[0].log
        assert log is not None and (len(log.head) + len(log.tail), log.total) == (kept, 100_001)


@pytest.mark.parametrize("how", ["exit", "raise", "timeout", "cancel"])
def test_what_a_call_wrote_before_its_end_is_kept(bench: Bench, how: str) -> None:
    def speak(how: str) -> None:
        print("before the end")
        if how == "exit":
            os._exit(3)
        if how == "raise":
            raise ValueError(how)
        time.sleep(60)

    running = bench.start(speak, [(how,)], **({"timeout": 0.5} if how == "timeout" else {}))
    if how == "cancel":
        running.until_running()
        bench.supervisor.cancel([running.bundle.calls[0].task_id])
    (outcome,) = running.wait()
    assert _text(outcome) == "before the end\n"


def test_a_call_that_closes_or_replaces_its_streams_harms_no_other(bench: Bench) -> None:
    def speak(i: int) -> int:
        print("call", i)
        if i == 1:
            sys.stdout.close()
        if i == 3:
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115
            print("nowhere")
        if i in (5, 9):
            os.close(1)
        return i

    outcomes = bench.run(speak, [(i,) for i in range(10)])
    assert [_text(o) for o in outcomes] == [f"call {i}\n" for i in range(10)]
    assert _text(bench.run(speak, [(10,)])[0]) == "call 10\n"


def test_a_call_that_closes_everything_has_its_outcome(bench: Bench) -> None:
    def close_all() -> str:
        os.closerange(0, 100)
        file = [os.open("/tmp", os.O_RDONLY) for _ in range(20)]
        return f"{len(file)} files"

    (outcome,) = bench.run(close_all)
    assert outcome.status == Status.SUCCEEDED
    assert bench.run(abs, [(1,)])[0].status == Status.SUCCEEDED


def test_what_a_running_call_wrote_is_told_while_it_runs(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "REPORT_OUTPUT_INTERVAL", 0.1)

    def speak(path: str) -> None:
        print("first")
        while not os.path.exists(path):
            time.sleep(0.01)
        print("second")
        time.sleep(60)

    signal = str(bench.supervisor._pool._options.directory / "go")
    running = bench.start(speak, [(signal,)])
    told = _told(running)
    wait_until(lambda: "first\n" in told(), what="the first line is told")
    assert "first\nsecond\n" not in told()
    with open(signal, "w"):
        pass
    wait_until(lambda: "first\nsecond\n" in told(), what="the second line is told")
    time.sleep(0.5)
    # what is silent is not told again
    assert len(told()) == len(set(told()))
    bench.supervisor.cancel([running.bundle.calls[0].task_id])
    running.wait()


def _told(running: Running) -> Any:
    return lambda: [
        o.log.head.decode() for o in running.outcomes if o.status == Status.RUNNING and o.log is not None
    ]


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([], Log(b"", b"", 0)),
        ([b"abc"], Log(b"abc", b"", 3)),
        ([b"abcdef", b"ghij"], Log(b"abcde", b"fghij", 10)),
        ([b"abcdefghijkl"], Log(b"abcde", b"hijkl", 12)),
        ([b"a"] * 30, Log(b"aaaaa", b"aaaaa", 30)),
    ],
)
def test_an_excerpt(pieces: list[bytes], expected: Log) -> None:
    excerpt = Excerpt(10)
    for piece in pieces:
        excerpt.add(piece)
    assert excerpt.log() == expected


def test_the_place_and_the_use_of_a_call_are_told(bench: Bench) -> None:
    def work(path: str) -> int:
        data = bytearray(80 << 20)
        data[::4096] = b"1" * len(data[::4096])
        with open(path, "wb") as file:
            file.write(bytes(3 << 20))
        with open(path, "rb") as file:
            file.read()
        deadline = time.process_time() + 0.1
        while time.process_time() < deadline:
            pass
        return os.getpid()

    path = str(bench.supervisor._pool._options.directory / "data")
    (big,) = bench.run(work, [(path,)])
    assert big.usage is not None and big.place is not None
    assert big.usage["max_rss"] > 80 << 20
    assert big.usage["read"] >= 3 << 20 and big.usage["written"] >= 3 << 20
    assert big.usage["cpu"] == pytest.approx(big.usage["user"] + big.usage["system"], abs=1e-5)
    assert 0.1 <= big.usage["cpu"] < 5
    assert (big.place.slot, big.place.host) == (0, os.uname().nodename)
    small, tiny = bench.run(time.sleep, [(0.05,), (0,)])
    assert small.usage is not None and small.usage["max_rss"] < 80 << 20
    assert small.usage["read"] < 1 << 20 and small.usage["cpu"] < 0.05
    assert tiny.usage is None and tiny.place == big.place


def test_what_children_use_counts(bench: Bench) -> None:
    def work() -> None:
        program = "import time; x = bytearray(90 << 20); x[::4096] = b'1' * len(x[::4096]);" + (
            "t = time.process_time() + 0.2\nwhile time.process_time() < t: pass"
        )
        subprocess.run([sys.executable, "-c", program], check=True)

    (outcome,) = bench.run(work)
    assert outcome.usage is not None
    assert outcome.usage["cpu"] >= 0.2 and outcome.usage["max_rss"] > 90 << 20
