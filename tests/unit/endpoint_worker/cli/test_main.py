"""The umbel-endpoint command against a service that is played by a small HTTP server."""

from __future__ import annotations

import base64
import json
import os
import stat
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from endpoint_worker.cli.main import main
from endpoint_worker.config.directory import EndpointDirectory
from umbel.protocol.envelope import Signer
from umbel.protocol.version import __version__


class Service:
    """Registers endpoints as the API does; keeps what it was asked. ``answer`` overrides the next answers."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str | None, dict[str, Any]]] = []
        self.answer: tuple[int, bytes] | None = None
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                service.asked.append(
                    (self.command, self.path, self.headers["Authorization"], json.loads(data) if data else {})
                )
                status, body = service.answer or service.good(self.command)
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_DELETE = do_POST

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def good(self, method: str) -> tuple[int, bytes]:
        if method == "DELETE":
            return 204, b""
        credentials = {
            "endpoint_id": "0b7d3c0e-0000-4000-8000-00000000000a",
            "broker_url": "redis://ep-x:secret@10.1.2.3:6379/0",
            "service_key": base64.b64encode(bytes(32)).decode(),
        }
        return 201, json.dumps({"id": "x", "credentials": credentials}).encode()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service()
    yield service
    service.close()


@pytest.fixture
def home(tmp_path: Path, service: Service, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UMBEL_HOME", str(tmp_path))
    monkeypatch.delenv("UMBEL_API_URL", raising=False)
    monkeypatch.delenv("UMBEL_TOKEN", raising=False)
    (tmp_path / "client.json").write_text(json.dumps({"url": service.url + "/", "token": "umb_1"}))
    return tmp_path


def run(*words: str, **options: Any) -> Result:
    result = CliRunner().invoke(main, list(words), **options)
    assert "Traceback" not in result.output
    return result


def test_configure_registers_a_key_made_here(home: Path, service: Service) -> None:
    result = run("configure", "lab", "--slots", "3", "--description", "in the cellar")
    assert result.exit_code == 0, result.output
    folder = EndpointDirectory(home, "lab")
    method, path, token, asked = service.asked[0]
    assert (method, path, token) == ("POST", "/v1/endpoints", "Bearer umb_1")
    public = Signer(folder.signing_key()).public_key
    assert asked == {
        "name": "lab",
        "public_key": base64.b64encode(public).decode(),
        "description": "in the cellar",
    }
    credentials = folder.credentials()
    assert credentials.broker_url == "redis://ep-x:secret@10.1.2.3:6379/0"
    assert credentials.api_url == service.url
    assert "\nslots = 3\n" in folder.settings_file.read_text()
    for name in ("credentials.json", "signing.key"):
        assert stat.S_IMODE((folder.path / name).stat().st_mode) == 0o600
    assert "secret" not in result.output


def test_the_environment_goes_before_the_file(home: Path, service: Service, monkeypatch: Any) -> None:
    monkeypatch.setenv("UMBEL_TOKEN", "umb_2")
    assert run("configure", "lab").exit_code == 0
    assert service.asked[0][2] == "Bearer umb_2"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((409, b'{"code": "NAME_TAKEN", "message": "you have an endpoint of that name"}'), "of that name"),
        ((401, b'{"code": "UNAUTHORIZED", "message": "no such token"}'), "no such token"),
        ((502, b"<html>"), "status 502"),
        ((200, b"<html>"), "without credentials"),
        ((201, b"[]"), "without credentials"),
        ((201, b'{"credentials": {"endpoint_id": "1", "broker_url": "r", "service_key": "!"}}'), "without"),
    ],
)
def test_a_refusal_is_a_sentence(home: Path, service: Service, answer: Any, said: str) -> None:
    service.answer = answer
    result = run("configure", "lab")
    assert result.exit_code == 2
    assert said in result.output
    assert len(result.output.strip().splitlines()) == 1
    assert not EndpointDirectory(home, "lab").exists()


def test_a_service_that_is_not_there_is_a_sentence(home: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("UMBEL_API_URL", "http://127.0.0.1:9")
    result = run("configure", "lab")
    assert (result.exit_code, len(result.output.strip().splitlines())) == (2, 1)
    assert "http://127.0.0.1:9" in result.output


def test_without_a_login_it_says_what_to_set(home: Path) -> None:
    (home / "client.json").unlink()
    result = run("configure", "lab")
    assert result.exit_code == 2
    assert "UMBEL_API_URL and UMBEL_TOKEN" in result.output


def test_nothing_is_configured_twice(home: Path, service: Service) -> None:
    assert run("configure", "lab").exit_code == 0
    result = run("configure", "lab")
    assert result.exit_code == 2
    assert "'lab'" in result.output and "umbel-endpoint delete lab" in result.output
    assert len(service.asked) == 1


@pytest.mark.skipif(os.getuid() == 0, reason="root can write everywhere")
def test_a_home_that_cannot_be_written_asks_nobody(home: Path, service: Service) -> None:
    home.chmod(0o500)
    try:
        result = run("configure", "lab")
    finally:
        home.chmod(0o700)
    assert result.exit_code == 2
    assert "cannot be written" in result.output
    assert service.asked == []


def test_list_and_status_of_what_does_not_run(home: Path) -> None:
    assert str(home) in run("list").output
    run("configure", "lab")
    assert run("list").output.split() == ["lab", "stopped"]
    result = run("status", "lab")
    assert result.exit_code == 3
    assert "0b7d3c0e-0000-4000-8000-00000000000a" in result.output
    assert "secret" not in result.output
    stopped = run("stop", "lab")
    assert (stopped.exit_code, "'lab'" in stopped.output, "Stopped" in stopped.output) == (0, True, False)


def test_a_second_start_names_the_first_ones_process(home: Path) -> None:
    run("configure", "lab")
    with EndpointDirectory(home, "lab").lock("n1"):
        for words in (["start", "lab", "--node", "n1"], ["start", "lab", "--node", "n1", "--detach"]):
            result = run(*words)
            assert result.exit_code == 2
            assert f"process {os.getpid()}" in result.output
        assert "running: n1" in run("list").output
        result = run("delete", "lab", "--yes")
        assert result.exit_code == 2
        assert "umbel-endpoint stop lab" in result.output


def test_start_refuses_settings_that_it_does_not_know(home: Path) -> None:
    run("configure", "lab")
    file = EndpointDirectory(home, "lab").settings_file
    file.write_text("slot = 3\n" + file.read_text())
    result = run("start", "lab")
    assert result.exit_code == 2
    assert "did you mean 'slots'" in result.output


@pytest.mark.parametrize(
    "command", ["start", "stop", "restart", "status", "delete", "logs", "check", "enable-on-boot"]
)
def test_an_endpoint_that_is_not_there_is_a_sentence(home: Path, command: str) -> None:
    result = run(command, "lab")
    assert result.exit_code == 2
    assert "umbel-endpoint configure lab" in result.output


def test_delete_asks_and_then_deletes_both_halves(home: Path, service: Service) -> None:
    run("configure", "lab")
    assert run("delete", "lab", input="n\n").exit_code == 1
    assert EndpointDirectory(home, "lab").exists()
    result = run("delete", "lab", "--yes")
    assert result.exit_code == 0
    assert service.asked[-1][:2] == ("DELETE", "/v1/endpoints/0b7d3c0e-0000-4000-8000-00000000000a")
    assert not (home / "endpoints" / "lab").exists()


def test_delete_keeps_the_folder_when_the_service_refuses(home: Path, service: Service) -> None:
    run("configure", "lab")
    service.answer = (409, b'{"code": "IN_USE", "message": "it has 3 unfinished tasks"}')
    result = run("delete", "lab", "--yes")
    assert (result.exit_code, "3 unfinished tasks" in result.output) == (2, True)
    assert EndpointDirectory(home, "lab").exists()
    assert run("delete", "lab", "--yes", "--local").exit_code == 0
    assert not EndpointDirectory(home, "lab").exists()


def test_delete_of_what_the_service_has_forgotten(home: Path, service: Service) -> None:
    run("configure", "lab")
    service.answer = (404, b'{"code": "ENDPOINT_NOT_FOUND", "message": "there is none"}')
    assert run("delete", "lab", "--yes").exit_code == 0


def test_logs_shows_the_last_lines(home: Path) -> None:
    run("configure", "lab")
    assert "--detach" in run("logs", "lab").output
    folder = EndpointDirectory(home, "lab")
    folder.logs.mkdir()
    (folder.logs / "n1.log").write_text("".join(f"line {i}\n" for i in range(100)))
    assert run("logs", "lab", "--node", "n1", "-n", "2").output == "line 98\nline 99\n"


def test_version() -> None:
    assert run("--version").output == f"umbel-endpoint, version {__version__}\n"
