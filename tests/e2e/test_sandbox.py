"""User code in sandboxes, tried on real endpoints through the SDK: it sees nothing that is not its own."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support import rootfs, sandboxes
from tests.support.embedded import Embedded, HandEndpoint, environment, gone
from tests.support.wait import wait_until
from umbel import TaskError

pytestmark = pytest.mark.timeout(180)

KINDS = sorted(sandboxes.PROGRAMS)


@pytest.fixture(scope="module")
def umbel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    with Embedded(tmp_path_factory.mktemp("sandbox"), workers=0) as embedded:
        yield embedded


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rootfs.make(tmp_path_factory.mktemp("image") / "root")


@pytest.fixture(scope="module", params=KINDS)
def closed(request: pytest.FixtureRequest, umbel: Embedded, image: Path) -> HandEndpoint:
    """An endpoint whose calls are closed in, one for each kind that can run here."""
    kind = request.param
    if shutil.which(sandboxes.PROGRAMS[kind]) is None:
        pytest.skip(f"not installed: {sandboxes.PROGRAMS[kind]}")
    settings = sandboxes.toml(kind, image, network=kind == "charliecloud") + "[rules]\nsandbox = true\n"
    return umbel.endpoint(kind, slots=2, settings=settings)


def _spy(files: list[str], port: int) -> dict[str, list[str]]:
    """Try everything; return what was read and reached."""
    import glob
    import os
    import socket

    found: dict[str, list[str]] = {"read": [], "reached": [], "processes": []}
    roots = ["", *glob.glob("/proc/[0-9]*/root"), *glob.glob("/proc/[0-9]*/cwd/../../../../..")]
    for root in roots:
        for file in files:
            try:
                with open(root + file, "rb") as opened:
                    found["read"].append(root + file + repr(opened.read(8)))
            except OSError:
                pass
    for place in glob.glob("/proc/[0-9]*/environ"):
        try:
            with open(place, "rb") as opened:
                if b"UMBEL_HOME" in opened.read():
                    found["read"].append(place)
        except OSError:
            pass
    for family, address in (
        (socket.AF_INET, ("127.0.0.1", port)),
        (socket.AF_INET, ("192.0.2.1", 80)),
        (socket.AF_UNIX, "\0umbel-test-abstract"),
    ):
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.settimeout(2)
            try:
                probe.connect(address)
                found["reached"].append(str(address))
            except OSError:
                pass
    found["processes"] = [name for name in os.listdir("/proc") if name.isdigit()]
    return found


def test_user_code_finds_neither_credentials_nor_other_users_files_nor_the_network(
    umbel: Embedded, closed: HandEndpoint, tmp_path_factory: pytest.TempPathFactory
) -> None:
    grace = closed.folder / "work" / "grace"
    grace.mkdir(parents=True, exist_ok=True)
    (grace / "results.csv").write_text("grace's own")
    elsewhere = tmp_path_factory.mktemp("home-of-grace") / "diary"
    elsewhere.write_text("grace's own")
    secrets = [
        closed.folder / "credentials.json",
        closed.folder / "signing.key",
        umbel.home / "client.json",
        grace / "results.csv",
        elsewhere,
    ]
    for secret in secrets:
        assert secret.read_bytes()
    port = umbel.port
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as abstract:
        abstract.bind("\0umbel-test-abstract")
        abstract.listen(1)
        with umbel.executor(closed.name) as executor:
            found = executor.submit(_spy, [str(secret) for secret in secrets], port).result(timeout=60)
            # it must have been real: the same code outside sees what is there
            assert f"work/{_user(umbel)}/.calls/" in executor.submit(os.getcwd).result(timeout=60)
        outside = _spy([str(secret) for secret in secrets], port)
    assert len(outside["read"]) >= len(secrets) and str(("127.0.0.1", port)) in outside["reached"]
    assert found["read"] == []
    if closed.name != "charliecloud":  # which shares network and processes, and says so
        assert found["reached"] == []
        assert len(found["processes"]) <= 3


def _user(umbel: Embedded) -> str:
    return str(umbel.client().whoami()["name"])


def _leave_file(name: str) -> str:
    from pathlib import Path

    path = Path(os.environ["UMBEL_WORK"], name)
    path.write_text("made inside")
    return str(path)


def test_files_that_a_call_writes_in_its_folder_are_there_afterwards(
    umbel: Embedded, closed: HandEndpoint
) -> None:
    with umbel.executor(closed.name) as executor:
        executor.submit(_leave_file, "result.txt").result(timeout=60)
    assert (closed.folder / "work" / _user(umbel) / "result.txt").read_text() == "made inside"


def _burn() -> None:
    while True:
        pass


def _leave_process(mark: str) -> None:
    import subprocess
    import sys
    import time

    code = "import time; time.sleep(300)"
    python = sys.executable or "python3"
    subprocess.Popen([python, "-c", code, mark], start_new_session=True)
    time.sleep(300)


def _marked(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if mark in process.cmdline() and process.cmdline()[-1] == mark and not gone(process):
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_limits_hold_and_what_a_call_leaves_behind_ends_with_it(
    umbel: Embedded, closed: HandEndpoint
) -> None:
    with umbel.executor(closed.name, cpu=0.7) as executor:
        with pytest.raises(TaskError, match="processor time") as caught:
            executor.submit(_burn).result(timeout=60)
        assert caught.value.code == "TIMEOUT"
    mark = f"mark-{closed.name}-{os.getpid()}"
    with umbel.executor(closed.name, timeout=2.0) as executor:
        future = executor.submit(_leave_process, mark)
        wait_until(lambda: _marked(mark), 60, what="the process that the call starts")
        with pytest.raises(TaskError) as caught:
            future.result(timeout=60)
        assert caught.value.code == "TIMEOUT"
        wait_until(lambda: not _marked(mark), 10, what="the end of what the call left behind")
    with umbel.executor(closed.name, max_attempts=1) as executor:
        with pytest.raises(TaskError, match="SIGSEGV|SIGABRT"):
            executor.submit(os.abort).result(timeout=60)
        assert executor.submit(pow, 2, 10).result(timeout=60) == 1024


def test_nothing_outlives_a_worker_that_is_killed(umbel: Embedded, closed: HandEndpoint) -> None:
    mark = f"orphan-{closed.name}-{os.getpid()}"
    with umbel.executor(closed.name, max_attempts=1) as executor:
        future = executor.submit(_leave_process, mark)
        wait_until(lambda: _marked(mark), 60, what="the process that the call starts")
        closed.kill()
        if closed.name != "charliecloud":
            # there only what is in the runner's process group is reached once the worker is dead
            wait_until(lambda: not _marked(mark), 20, what="the end of all inside")
        for process in _marked(mark):
            process.kill()
        future.cancel()
        closed.start()
        assert executor.submit(pow, 3, 2).result(timeout=60) == 9
    closed.stop()


def test_check_tells_that_the_sandbox_works(closed: HandEndpoint) -> None:
    found = _check(closed)
    assert found["sandbox"]["ok"] and closed.name in found["sandbox"]["said"]
    assert found["runner"]["ok"]


def _check(endpoint: HandEndpoint) -> dict[str, Any]:
    run = subprocess.run(
        [sys.executable, "-m", "endpoint_worker", "check", endpoint.name, "--json"],
        env=environment(UMBEL_HOME=str(endpoint.home)),
        capture_output=True,
        text=True,
        timeout=90,
    )
    return {finding["name"]: finding for finding in json.loads(run.stdout)["checks"]}


def test_an_endpoint_that_must_have_a_sandbox_and_has_none_runs_nothing(umbel: Embedded) -> None:
    bare = umbel.endpoint("bare", settings="\n[rules]\nsandbox = true\n")
    with umbel.executor("bare") as executor:
        with pytest.raises(TaskError, match="rule sandbox") as caught:
            executor.submit(pow, 2, 2).result(timeout=60)
    assert caught.value.code == "NOT_ALLOWED"
    found = _check(bare)["sandbox"]
    assert not found["ok"] and "kind" in found["advice"]
    bare.stop()


def test_a_sandbox_whose_image_is_missing_says_so_and_runs_nothing(umbel: Embedded) -> None:
    if shutil.which("bwrap") is None:
        pytest.skip("not installed: bwrap")
    settings = '\n[sandbox]\nkind = "bubblewrap"\nimage = "/nowhere/at/all"\n'
    broken = umbel.endpoint("broken", settings=settings)
    found = _check(broken)["sandbox"]
    assert not found["ok"] and "/nowhere/at/all" in found["said"]
    with umbel.executor("broken", expires=2.0) as executor:
        with pytest.raises(TaskError):
            executor.submit(pow, 2, 2).result(timeout=60)
    broken.stop()
