"""A session of a system that is nothing but this process."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import processes, session
from benchmarks.clock import Clock
from benchmarks.functions import BY_NAME
from benchmarks.peers import PEERS
from benchmarks.peers.base import Peer


class Here(Peer):
    """Calls the functions here; ``spoil`` makes a result wrong."""

    spoil = False
    stopped = False

    def start(self) -> None:
        """Start a process, to be found and ended."""
        self.spawn([sys.executable, "-c", "import time; time.sleep(60)"])

    def run(self, function: str, items: Sequence[Any]) -> list[Any]:
        """Call."""
        results = [BY_NAME[function](item) for item in items]
        return [*results[:-1], None] if self.spoil and len(items) > 200 else results

    def stop(self) -> None:
        """Stop."""
        type(self).stopped = True
        super().stop()


def _run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, works: str, **how: Any) -> list[dict[str, Any]]:
    monkeypatch.setenv(processes.MARK, f"test-{os.getpid()}-{time.monotonic_ns()}")
    cls: type[Here] = type("This", (Here,), how)
    monkeypatch.setattr(session, "adapter", lambda name: cls)
    options = ["--peer", "celery", "--works", works, "--folder", str(tmp_path), "--settle", "0"]
    output = io.StringIO()
    well = session.Session(session.parse(options), output).run()
    records = [json.loads(line) for line in output.getvalue().splitlines()]
    assert well == (not any("error" in record for record in records))
    assert cls.stopped
    return records


def test_a_session_measures_each_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start, small, large, trips, memory = _run(tmp_path, monkeypatch, "W1,W2,W5")
    assert start["work"] == "start" and start["versions"]["python"]
    assert [(record["work"], record["n"]) for record in (small, large, trips, memory)] == [
        ("W1", 2000),
        ("W1", 10_000),
        ("W2", 300),
        ("W5", 100_000),
    ]
    assert large["tasks_per_s"] == pytest.approx(10_000 / large["seconds"], rel=0.01)
    assert 0 <= trips["p50_ms"] <= trips["p95_ms"] <= trips["max_ms"]
    assert dict(memory["peak_mb"])["client"] > 1


def test_wrong_results_are_no_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = _run(tmp_path, monkeypatch, "W1", spoil=True)
    assert [record["work"] for record in records] == ["start", "error"]
    assert "wrong results" in records[1]["error"]


def test_a_run_that_takes_too_long_is_ended() -> None:
    with pytest.raises(session.RunTimeout, match="1 s"), session.limit(1):
        time.sleep(30)


def test_percentiles() -> None:
    assert session.percentile(range(1, 101), 0.95) == 95
    assert session.percentile([3.0], 0.95) == 3.0


def test_processor_time_is_found_by_role(monkeypatch: pytest.MonkeyPatch) -> None:
    mark = f"test-{os.getpid()}-clock"
    monkeypatch.setenv(processes.MARK, mark)
    code = "import sys, time\nwhile time.process_time() < 0.2: pass\nprint(1, flush=True); sys.stdin.read()"
    with Clock(mark, (("process_time", "worker"),)) as clock:
        child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert child.stdout is not None and child.stdout.readline()
    assert 0.15 <= clock.cpu["worker"] <= 1.0
    record = clock.record(100)
    assert record["cpu_ms_per_task_by_process"]["worker"] == pytest.approx(clock.cpu["worker"] * 10)
    child.communicate()


def test_processes_are_ended_by_id_and_start() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    found = processes.read_process(child.pid)
    assert found is not None
    # another process of the same id is left alone
    assert processes.end({child.pid: found.start + 1}) == []
    assert child.poll() is None
    assert processes.end({child.pid: found.start}) == []
    assert child.wait(5) != 0


@pytest.mark.parametrize("name", sorted(PEERS))
def test_every_adapter_is_there(name: str) -> None:
    module, _, cls = PEERS[name].adapter.partition(":")
    file = Path(processes.__file__).parent / "peers" / f"{module}.py"
    assert f"class {cls}(" in file.read_text(encoding="utf-8")
