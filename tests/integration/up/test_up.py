"""``python -m federation up``: what it starts, what it rejects, and how it stops."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from federation.standalone import redis_server
from tests.support.embedded import ROOT, Embedded, Service, environment, gone, processes_of
from tests.support.wait import wait_until


@pytest.fixture(scope="module")
def umbel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    with Embedded(tmp_path_factory.mktemp("up")) as embedded:
        yield embedded


def _where(name: str) -> tuple[str, int, str]:
    return name, os.getpid(), sys.version.split()[0]


def _refusal(*words: str, python: str = sys.executable, environ: dict[str, str] | None = None) -> str:
    """Run ``up`` where it must fail; return its error message."""
    run = subprocess.run(
        [python, "-m", "federation", "up", *words],
        cwd=ROOT,
        env=environ or environment(),
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert run.returncode == 2, run.stdout + run.stderr
    assert run.stdout == ""
    assert "Traceback" not in run.stderr and len(run.stderr.strip().splitlines()) == 1, run.stderr
    return run.stderr


def test_a_call_makes_the_whole_journey(umbel: Embedded) -> None:
    with umbel.executor() as executor:
        name, pid, version = executor.submit(_where, "here").result(timeout=30)
        assert (name, version) == ("here", sys.version.split()[0])
        family = psutil.Process(umbel.pid("endpoint")).children(recursive=True)
        assert pid in [process.pid for process in family]
        assert list(executor.map(pow, range(100), [2] * 100, timeout=30)) == [n * n for n in range(100)]


def test_the_functions_exception_arrives(umbel: Embedded) -> None:
    with umbel.executor() as executor:
        future = executor.submit(int, "no number")
        with pytest.raises(ValueError, match="no number") as caught:
            future.result(timeout=30)
        assert "Traceback" in str(caught.value.__cause__)


def test_it_says_how_to_use_it(umbel: Embedded) -> None:
    assert umbel.service is not None
    said = umbel.service.text()
    assert said.startswith("Umbel is ready")
    assert f"{umbel.url}\n" in said and f"{umbel.url}/docs" in said and str(umbel.home) in said
    with urllib.request.urlopen(f"{umbel.url}/health", timeout=10) as answer:
        assert json.load(answer)["status"] == "ok"
    with urllib.request.urlopen(f"{umbel.url}/docs", timeout=10) as answer:
        assert answer.status == 200


def _health(umbel: Embedded) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"{umbel.url}/health", timeout=5) as answer:
            return answer.status, json.load(answer)["status"]
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)["status"]
    except OSError:
        return 0, "not there"


def test_it_is_healthy_only_when_its_endpoint_can_be_used(tmp_path: Path) -> None:
    federation = Embedded(tmp_path, workers=1)
    seen: list[tuple[int, str]] = []

    def watch() -> str:
        wait_until(
            lambda: seen.append(_health(federation)) or seen[-1][0] == 200, 30, what="a healthy service"
        )
        return str(federation.client().get_endpoint("local")["state"])

    with ThreadPoolExecutor(1) as thread:
        watching = thread.submit(watch)
        with federation:
            assert watching.result(30) == "online"
    assert (503, "starting") in seen and seen[-1] == (200, "ok")


def test_secrets_are_in_private_files_only(umbel: Embedded) -> None:
    token = umbel.account()["token"]
    secrets = [token, (umbel.home / "redis" / "service.url").read_text().split(":")[2].split("@")[0]]
    for process in processes_of(umbel.home):
        words = " ".join(process.cmdline())
        values = " ".join(process.environ().values())
        assert not [secret for secret in secrets if secret in words or secret in values]
    for file in umbel.home.rglob("*"):
        if file.is_file() and any(secret.encode() in file.read_bytes() for secret in secrets):
            assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
            assert file.suffix != ".log", file
    assert stat.S_IMODE(umbel.home.stat().st_mode) == 0o700


def test_a_second_one_on_the_same_home_is_refused(umbel: Embedded) -> None:
    assert umbel.service is not None
    sentence = _refusal("--home", str(umbel.home), "--port", "0")
    assert f"pid {umbel.service.process.pid}" in sentence and str(umbel.home) in sentence
    assert umbel.service.process.poll() is None


def test_the_status_file_tells_what_runs(umbel: Embedded) -> None:
    assert set(umbel.pids()) == {"redis", "web", "collect", "sweep", "endpoint"}
    for pid in umbel.pids().values():
        assert psutil.Process(pid).ppid() == umbel.status()["pid"]


def test_a_taken_port_is_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        assert f"Port {port} on 127.0.0.1 is used" in _refusal("--home", str(tmp_path / "h"), "--port", port)
        flower = _refusal("--home", str(tmp_path / "h"), "--port", "0", "--flower", "--flower-port", port)
        assert "--flower-port" in flower
    assert not processes_of(tmp_path)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--host", "192.0.2.1"], "Cannot listen on 192.0.2.1"),
        (["--port", "99999"], "'port'"),
        (["--workers", "-1"], "--workers"),
    ],
)
def test_impossible_flags_are_refused(tmp_path: Path, words: list[str], sentence: str) -> None:
    assert sentence in _refusal("--home", str(tmp_path / "home"), *words)


def test_a_home_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "--home" in _refusal("--home", str(tmp_path / "file" / "home"), "--port", "0")


def test_unknown_settings_are_refused(tmp_path: Path) -> None:
    (tmp_path / "umbel.toml").write_text("[server]\nprot = 8642\n")
    assert "did you mean 'port'" in _refusal("--home", str(tmp_path))


def test_a_broker_port_in_other_hands_is_refused(tmp_path: Path) -> None:
    redis_server.prepare(tmp_path)
    port = urlsplit(redis_server.broker_url(tmp_path)).port
    assert port is not None
    with socket.create_server(("127.0.0.1", port)):
        assert f"Port {port}" in _refusal("--home", str(tmp_path), "--port", "0")


def test_a_restart_goes_on_where_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "d\u00f6ck it"
    folder.mkdir()
    with Embedded(folder, workers=1) as umbel:
        with umbel.client() as client:
            function = client.register_function(_wait_and_return)
            done = client.run("done", 0.0, function_id=function, endpoint_id="local")
            assert client.get_result(done, timeout=30) == "done"
            running = client.run("running", 1.0, function_id=function, endpoint_id="local")
            queued = [client.run(n, 0.0, function_id=function, endpoint_id="local") for n in range(20)]
            wait_until(lambda: client.get_task(running)["state"] == "running", what="the long call to run")
        account = umbel.account()
        began = time.monotonic()
        umbel.stop()
        assert time.monotonic() - began < 10
        assert not processes_of(umbel.home)
        umbel.start()
        assert umbel.account() == account
        with umbel.client() as client:
            assert client.get_result(done) == "done"
            assert client.get_result(running, timeout=60) == "running"
            assert [client.get_result(task, timeout=60) for task in queued] == list(range(20))
            assert [endpoint["name"] for endpoint in client.endpoints()] == ["local"]
            assert client.register_function(_wait_and_return) == function


def _wait_and_return(value: object, seconds: float) -> object:
    import time

    time.sleep(seconds)
    return value


def test_after_its_own_violent_death_nothing_lingers_and_the_next_one_works(tmp_path: Path) -> None:
    with Embedded(tmp_path, workers=1) as umbel:
        left = processes_of(umbel.home)
        assert umbel.service is not None and len(left) >= 6
        umbel.service.process.kill()
        umbel.service.wait()
        umbel.start()  # at once
        assert all(gone(process) for process in left)
        with umbel.executor() as executor:
            assert executor.submit(pow, 2, 10).result(timeout=30) == 1024
        left = processes_of(umbel.home)
        umbel.service.process.kill()
        umbel.service.wait()
        wait_until(lambda: all(gone(process) for process in left), 15, what="the end of its children")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_start_ends_it(tmp_path: Path, number: signal.Signals) -> None:
    umbel = Embedded(tmp_path, workers=1)
    service = Service(umbel.argv(), environment(), tmp_path / "up.out")
    wait_until(
        lambda: (umbel.home / "status.json").exists() and "web" in umbel.pids(), 30, what="its children"
    )
    service.process.send_signal(number)
    assert service.wait(10) == 0, service.text()
    assert not processes_of(umbel.home)
