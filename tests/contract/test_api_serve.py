"""``python -m webapp.serve`` as a process: sockets, signals, refusals that never reach the application."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import Any

import psutil
import pytest

from federation.config.settings import Settings
from federation.context import Federation, open_federation
from federation.db.tables import groups
from federation.registry import users
from tests.support.wait import wait_until
from umbel.protocol import names

ROOT = Path(__file__).resolve().parents[2]
MIB = 1024 * 1024


def started(home: Path, broker_url: str, *words: str) -> subprocess.Popen[str]:
    """The server as a process; its log is its standard error."""
    environ = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'sdk'}"}
    if broker_url:
        environ["UMBEL_BROKER_URL"] = broker_url
    argv = [sys.executable, "-m", "webapp.serve", "--home", str(home), *words]
    return subprocess.Popen(argv, cwd=ROOT, env=environ, stderr=subprocess.PIPE, text=True)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class Server:
    """A running server with a user's token."""

    def __init__(self, home: Path, broker_url: str):
        self.port = free_port()
        self.fed: Federation = open_federation(Settings(home=home, broker_url=broker_url))
        self.user = users.ensure_user(self.fed, "ada")
        token = users.create_token(self.fed, self.user, "test")
        self.headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self.process = started(home, broker_url, "--port", str(self.port))
        wait_until(self._answers, 30, what="the server's answer")

    def _answers(self) -> bool:
        try:
            return self.request("GET", "/version")[0] == 200
        except OSError:
            assert self.process.poll() is None, self.process.communicate()[1]
            return False

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)

    def request(self, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
        connection = self.connect()
        try:
            connection.request(method, path, body, self.headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
        self.fed.close()


@pytest.fixture
def server(tmp_path: Path, broker_url: str) -> Iterator[Server]:
    server = Server(tmp_path, broker_url)
    yield server
    server.stop()


def exchange(raw: socket.socket, request: bytes) -> tuple[int, Any, Message]:
    """Send bytes; return status, JSON and headers of the answer."""
    raw.sendall(request)
    with http.client.HTTPResponse(raw) as answer:
        answer.begin()
        return answer.status, json.loads(answer.read()), answer.headers


def test_it_serves_over_one_kept_connection(server: Server) -> None:
    connection = server.connect()
    connection.connect()
    first = connection.sock
    for _ in range(20):
        connection.request("GET", "/v1/whoami", headers=server.headers)
        answer = connection.getresponse()
        assert json.loads(answer.read())["name"] == "ada"
        assert connection.sock is first, "the server closed a connection that could have been kept"
    connection.close()


def test_bodies_that_are_too_large_are_refused_in_words(server: Server) -> None:
    for size in (12 * MIB + 1, 20 * MIB):
        status, error = server.request("POST", "/v1/functions", bytes(size))
        assert (status, error["code"]) == (413, "PAYLOAD_TOO_LARGE")
    # a client that asks first is told before it sends anything
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as raw:
        head = "POST /v1/functions HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n"
        head += f"Content-Length: {10**12}\r\n\r\n"
        status, error, _ = exchange(raw, head.encode())
        assert (status, error["code"]) == (413, "PAYLOAD_TOO_LARGE")


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GARBAGE\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"POST /v1/tasks HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
    ],
)
def test_broken_http_is_refused_in_the_same_shape(server: Server, request_bytes: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as raw:
        status, error, headers = exchange(raw, request_bytes)
    assert status == 400 and set(error) == {"code", "message", "details"}
    assert error["code"] == "BAD_REQUEST" and headers["X-Content-Type-Options"] == "nosniff"


def test_slow_and_idle_connections_hold_nobody_up(server: Server) -> None:
    slow = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(100)]
    for number, connection in enumerate(slow):
        connection.sendall(
            b"POST /v1/tasks HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{"[: 10 + number]
        )
    before = time.monotonic()
    assert server.request("GET", "/v1/whoami")[0] == 200
    assert time.monotonic() - before < 2
    for connection in slow:
        connection.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_within_seconds_and_answers_those_who_wait(server: Server, number: signal.Signals) -> None:
    group = names.new_id()
    with server.fed.database.write() as connection:
        connection.execute(groups.insert().values(id=group, user_no=server.user.no, created=0.0))
    answers: list[Any] = []

    def poll() -> None:
        answers.append(server.request("GET", f"/v1/groups/{group}/results?wait=30"))

    threads = [threading.Thread(target=poll) for _ in range(10)]
    for thread in threads:
        thread.start()
    clients = wait_until(lambda: subscribers(server), what="the polls to wait")
    assert clients
    time_before = time.monotonic()
    server.process.send_signal(number)
    assert server.process.wait(10) == 0
    assert time.monotonic() - time_before < 5
    for thread in threads:
        thread.join(10)
    assert [status for status, _ in answers] == [200] * 10
    assert all(answer["results"] == [] for _, answer in answers)


def subscribers(server: Server) -> bool:
    """True when ten connections to the server are open and it has had the time to read their requests."""
    process = psutil.Process(server.process.pid)
    established = [
        c for c in process.net_connections() if c.laddr.port == server.port and c.status == "ESTABLISHED"
    ]
    return len(established) >= 10


def test_a_taken_port_is_a_sentence(tmp_path: Path, broker_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = started(tmp_path, broker_url, "--port", str(port))
        _, error = process.communicate(timeout=30)
    assert process.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}" in error and "Traceback" not in error


def test_a_missing_broker_is_a_sentence(tmp_path: Path) -> None:
    process = started(tmp_path, "", "--port", "0")
    _, error = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "no broker" in error and "Traceback" not in error


def test_an_impossible_address_is_a_sentence(tmp_path: Path, broker_url: str) -> None:
    process = started(tmp_path, broker_url, "--port", "0", "--host", "no.such.host.invalid")
    _, error = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "cannot listen" in error and "Traceback" not in error


def test_a_home_below_a_file_is_a_sentence(tmp_path: Path, broker_url: str) -> None:
    (tmp_path / "file").touch()
    process = started(tmp_path / "file" / "home", broker_url, "--port", "0")
    _, error = process.communicate(timeout=30)
    assert process.returncode == 2
    assert str(tmp_path / "file") in error and "Traceback" not in error
