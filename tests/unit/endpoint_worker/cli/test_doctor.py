"""``umbel-endpoint check`` against a real broker, and a service played by a small HTTP server."""

from __future__ import annotations

import json
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
from click.testing import CliRunner

from endpoint_worker.cli.doctor import checks
from endpoint_worker.cli.main import main
from tests.support.broker import running_broker
from tests.unit.endpoint_worker.bench import ENDPOINT
from tests.unit.endpoint_worker.node.test_worker import Site
from umbel.protocol import names
from umbel.protocol.version import PROTOCOL_VERSION, __version__

ALL = ["python", "files", "settings", "disk", "api", "broker", "credentials", "clock", "sandbox", "runner"]


class Service:
    """Answers /version; ``body`` and ``ahead`` (seconds of its clock) can be changed."""

    def __init__(self) -> None:
        self.body: Any = {"version": __version__, "protocol": PROTOCOL_VERSION}
        self.ahead = 0.0
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                data = json.dumps(service.body).encode() if self.path == "/version" else b"?"
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def date_time_string(self, timestamp: float | None = None) -> str:
                return formatdate(time.time() + service.ahead, usegmt=True)

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Answer(NamedTuple):
    """What a check said: (ok, said, advice) by name."""

    code: int
    ok: bool
    found: dict[str, tuple[bool | None, str, str]]

    @property
    def failed(self) -> list[str]:
        return [name for name, (ok, _, _) in self.found.items() if ok is False]


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service()
    yield service
    service.close()


@pytest.fixture
def site(tmp_path: Path, service: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """An endpoint's folder and its broker; no worker runs."""
    monkeypatch.setenv("UMBEL_HOME", str(tmp_path))
    with running_broker(tmp_path) as url:
        site = Site(tmp_path, url)
        rewrite(site, api_url=service.url)
        yield site
        site.close()


def rewrite(site: Site, **values: str) -> None:
    """Change the endpoint's credentials."""
    file = site.directory.path / "credentials.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def look(*options: str) -> Answer:
    result = CliRunner().invoke(main, ["check", "lab", "--json", *options])
    assert "pw@" not in result.output
    record = json.loads(result.output)
    assert record["endpoint"] == "lab"
    found = {f["name"]: (f["ok"], f["said"], f["advice"]) for f in record["checks"]}
    assert all(advice for ok, _, advice in found.values() if ok is False), "each failure has its advice"
    return Answer(result.exit_code, record["ok"], found)


def test_all_is_well_and_nothing_is_changed(site: Site) -> None:
    site.broker.lpush(names.queue_key(ENDPOINT), "a message")
    children = len(psutil.Process().children())
    answer = look()
    assert (answer.code, answer.ok, list(answer.found)) == (0, True, ALL)
    assert site.broker.llen(names.queue_key(ENDPOINT)) == 1
    assert site.broker.llen(names.reports_key(ENDPOINT)) == 0
    assert len(psutil.Process().children()) == children, "the runner is gone"
    assert f"umbel {__version__}" in answer.found["api"][1]


def test_people_are_told_in_lines(site: Site, service: Service) -> None:
    service.body = []
    result = CliRunner().invoke(main, ["check", "lab"])
    assert result.exit_code == 1
    lines = result.output.splitlines()
    (failed,) = (number for number, line in enumerate(lines) if line.startswith("FAILED"))
    assert lines[failed].startswith("FAILED  api          ") and service.url in lines[failed]
    assert lines[failed + 1].startswith(21 * " " + "→ "), "the advice follows"
    assert "ok      broker       redis://127.0.0.1:" in result.output


@pytest.mark.parametrize(
    ("body", "said"),
    [({"version": "9.0", "protocol": 9}, "protocol 9"), ({"hello": 1}, "status 200"), (3, "status 200")],
)
def test_another_service(site: Site, service: Service, body: Any, said: str) -> None:
    service.body = body
    answer = look()
    assert (answer.code, answer.failed) == (1, ["api"])
    assert service.url in answer.found["api"][1] and said in answer.found["api"][1]


def test_a_service_out_of_reach_can_be_left_out(site: Site) -> None:
    rewrite(site, api_url="http://127.0.0.1:9")
    answer = look()
    assert (answer.code, answer.failed) == (1, ["api"])
    assert "--no-api" in answer.found["api"][2]
    answer = look("--no-api")
    assert (answer.code, answer.failed, "api" in answer.found) == (0, [], False)
    assert answer.found["clock"][0] is True, "the broker tells the time, too"


def test_a_service_that_has_moved_is_found_by_the_login_of_the_home(site: Site, service: Service) -> None:
    rewrite(site, api_url="http://127.0.0.1:9")
    (site.home / "client.json").write_text(json.dumps({"url": service.url, "token": "t"}))
    answer = look()
    assert answer.found["api"][0] is True and service.url in answer.found["api"][1]


@pytest.mark.parametrize(("ahead", "said"), [(500.0, "behind"), (-500.0, "ahead of")])
def test_a_clock_that_is_wrong(site: Site, service: Service, ahead: float, said: str) -> None:
    service.ahead = ahead
    answer = look()
    assert (answer.code, answer.failed) == (0, []), "workers correct it"
    assert said in answer.found["clock"][1]
    assert "NTP" in answer.found["clock"][2]
    lines = CliRunner().invoke(main, ["check", "lab"]).output.splitlines()
    (line,) = (line for line in lines if "  clock  " in line)
    assert line.startswith("warn ")


def test_a_broker_out_of_reach(site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with site.directory.settings_file.open("a") as file:
        file.write(f'broker_address = "127.0.0.1:{port}"\n')
    answer = look()
    assert (answer.code, answer.failed) == (1, ["broker"])
    assert f"127.0.0.1:{port}/0" in answer.found["broker"][1]
    assert "broker_address" in answer.found["broker"][2]
    assert answer.found["credentials"][0] is None
    assert answer.found["clock"][0] is True, "the service tells the time, too"


def test_what_is_no_broker(site: Site, service: Service) -> None:
    with site.directory.settings_file.open("a") as file:
        file.write(f'broker_address = "{service.url.removeprefix("http://")}"\n')
    answer = look("--no-api")
    assert answer.failed == ["broker"]


def test_an_account_that_is_gone(site: Site) -> None:
    site.broker.execute_command("ACL", "DELUSER", names.broker_user(ENDPOINT))
    answer = look()
    assert (answer.code, answer.failed) == (1, ["credentials"])
    assert names.broker_user(ENDPOINT) in answer.found["credentials"][1]
    assert "deleted" in answer.found["credentials"][2], "not only that the broker cannot be used"


@pytest.mark.parametrize("right", ["-brpop", "-lpush", "-multi", "resetkeys"])
def test_an_account_that_may_not_do_its_work(site: Site, right: str) -> None:
    site.broker.execute_command("ACL", "SETUSER", names.broker_user(ENDPOINT), right)
    answer = look()
    assert (answer.code, answer.failed) == (1, ["credentials"])
    if right.startswith("-"):
        assert right[1:] in answer.found["credentials"][1].lower()


def test_secrets_that_others_can_read(site: Site) -> None:
    (site.directory.path / "signing.key").chmod(0o644)
    answer = look()
    assert (answer.code, answer.failed) == (1, ["files"])
    assert answer.found["files"][2] == f"chmod 600 {site.directory.path / 'signing.key'}"


def test_damaged_files_and_settings(site: Site) -> None:
    (site.directory.path / "signing.key").write_bytes(b"short")
    site.directory.settings_file.write_text("slosts = 3\n")
    answer = look()
    assert answer.code == 1
    assert answer.failed == ["files", "settings"]
    assert "did you mean 'slots'" in answer.found["settings"][1]
    assert [answer.found[name][0] for name in ("broker", "credentials", "clock", "sandbox", "runner")] == [
        None
    ] * 5


def test_a_disk_without_room_or_where_nothing_can_be_written(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(site.home)
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda _: usage._replace(free=10 * 1024**2))
    answer = look("--no-api")
    assert (answer.code, answer.failed) == (1, ["disk"])
    assert "10 MiB" in answer.found["disk"][1]
    monkeypatch.undo()
    monkeypatch.setenv("UMBEL_HOME", str(site.home))
    site.directory.logs.write_text("a file in the folder's place")
    answer = look("--no-api")
    assert (answer.code, answer.failed) == (1, ["disk"])
    assert str(site.directory.logs) in answer.found["disk"][1]


@pytest.mark.parametrize(
    ("script", "said"),
    [("echo no such library >&2; exit 127", "no such library"), ("sleep 60", " 1 s")],
)
def test_a_runner_that_does_not_start(
    site: Site, monkeypatch: pytest.MonkeyPatch, script: str, said: str
) -> None:
    real = checks.runner_options
    python = ("/bin/sh", "-c", script)
    monkeypatch.setattr(checks, "runner_options", lambda *args: replace(real(*args), python=python))
    monkeypatch.setattr(checks, "RUNNER_TIMEOUT", 1.0)
    before = set(psutil.Process().children(recursive=True))
    answer = look("--no-api")
    assert (answer.code, answer.failed) == (1, ["runner"])
    assert said in answer.found["runner"][1]
    assert set(psutil.Process().children(recursive=True)) == before, "it was ended"
