"""The status file, and processes left over from a killed run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from federation.standalone import processes, run_state
from federation.standalone.supervisor import Spec, Supervisor


def test_the_status_tells_what_runs(tmp_path: Path) -> None:
    with Supervisor(tmp_path) as supervisor:
        child = supervisor.add(Spec("web", [sys.executable, "-c", "import time; time.sleep(60)"], tmp_path))
        run_state.write_status(tmp_path, "http://127.0.0.1:1", supervisor.children.values())
        status = json.loads(run_state.status_file(tmp_path).read_text())
        pid, created = child.pid, psutil.Process(child.pid).create_time()
    assert status["pid"] == os.getpid() and status["url"] == "http://127.0.0.1:1"
    assert status["components"] == {"web": {"pid": pid, "created": created, "restarts": 0}}


def test_leftovers_are_ended_with_their_descendants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen(['sleep', '60'], start_new_session=True)\n"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    monkeypatch.setattr(run_state, "LEFTOVER_GRACE", 0.2)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as deaf:
        assert deaf.stdout is not None
        grandchild = psutil.Process(int(deaf.stdout.readline()))
        _record(tmp_path, "endpoint", deaf.pid, psutil.Process(deaf.pid).create_time())
        assert run_state.end_leftovers(tmp_path) == ["endpoint"]
        assert processes.ended(grandchild)
        assert deaf.wait(5) != 0


def test_another_process_with_the_same_number_is_left_alone(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        _record(tmp_path, "web", other.pid, psutil.Process(other.pid).create_time() - 100)
        assert run_state.end_leftovers(tmp_path) == []
        assert other.poll() is None
        other.communicate(b"\n")


def test_a_status_file_that_makes_no_sense_is_no_hindrance(tmp_path: Path) -> None:
    assert run_state.end_leftovers(tmp_path) == []
    for text in (
        "",
        "[]",
        '{"components": 3}',
        '{"components": {"web": 3}}',
        '{"components": {"web": {"pid": "x"}}}',
    ):
        run_state.status_file(tmp_path).write_text(text)
        assert run_state.end_leftovers(tmp_path) == []


def _record(home: Path, name: str, pid: int, created: float) -> None:
    status = {"components": {name: {"pid": pid, "created": created, "restarts": 0}}}
    run_state.status_file(home).write_text(json.dumps(status))
