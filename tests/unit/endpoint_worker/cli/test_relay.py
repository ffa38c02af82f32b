"""The relay on a login node, and workers that look for a way."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from endpoint_worker.broker import routes
from endpoint_worker.broker.routes import NoRoute, Route
from endpoint_worker.cli import relay
from endpoint_worker.cli.main import main
from endpoint_worker.config.directory import EndpointDirectory
from tests.support.wait import wait_until


class Answering:
    """A broker that knows one sentence; it notes what it was told."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.heard: list[bytes] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(65536):
                self.heard.append(data)
                # one answer for each command; their first bytes are the numbers of their words
                connection.sendall(b"+PONG\r\n" * data.count(b"*"))

    def close(self) -> None:
        # a thread in accept() is not woken by close()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def broker() -> Iterator[Answering]:
    broker = Answering()
    yield broker
    broker.close()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EndpointDirectory]:
    monkeypatch.setenv("UMBEL_HOME", str(tmp_path))
    folder = EndpointDirectory(tmp_path, "hpc")
    yield folder
    relay.stop(folder)


def _say(address: str, port: int) -> bytes:
    with socket.create_connection((address, port), 10) as connection:
        connection.sendall(b"*1\r\n$4\r\nPING\r\n")
        return connection.recv(64)


def test_it_carries_bytes_runs_once_and_ends_with_its_endpoint(
    folder: EndpointDirectory, broker: Answering
) -> None:
    upstream = ("127.0.0.1", broker.port)
    made = relay.ensure(folder, upstream, ["127.0.0.1"], 0)
    assert made["addresses"] == ["127.0.0.1"] and _say("127.0.0.1", made["port"]) == b"+PONG\r\n"
    assert relay.ensure(folder, upstream, ["127.0.0.1"], 0) == made
    process = psutil.Process(made["pid"])
    # dead: it is started again, at the same place if it is told which
    process.kill()
    process.wait(10)
    again = relay.ensure(folder, upstream, ["127.0.0.1"], made["port"])
    assert again["pid"] != made["pid"] and again["port"] in range(made["port"], made["port"] + relay.PORTS)
    assert _say("127.0.0.1", again["port"]) == b"+PONG\r\n"
    # its folder goes with the endpoint
    for file in (folder.path / "run").glob("relay-*.json"):
        file.unlink()
    wait_until(lambda: _gone(again["pid"]), 15.0, what="the end of the relay")


def test_another_upstream_replaces_it_and_stop_ends_it(folder: EndpointDirectory, broker: Answering) -> None:
    first = relay.ensure(folder, ("127.0.0.1", 1), ["127.0.0.1"], 0)
    assert _say_nothing(first["port"])
    second = relay.ensure(folder, ("127.0.0.1", broker.port), ["127.0.0.1"], 0)
    assert second["pid"] != first["pid"] and _gone(first["pid"])
    assert relay.stop(folder) and _gone(second["pid"])
    assert not relay.stop(folder)


def test_the_command_prints_where_it_listens(folder: EndpointDirectory, broker: Answering) -> None:
    words = ["relay", "hpc", "--upstream", f"127.0.0.1:{broker.port}", "--listen", "127.0.0.1"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    made = json.loads(done.output)
    assert _say("127.0.0.1", made["port"]) == b"+PONG\r\n"
    assert CliRunner().invoke(main, ["relay", "hpc", "--stop"]).exit_code == 0
    assert _gone(made["pid"])


def test_it_listens_on_private_addresses_only() -> None:
    import ipaddress

    found = relay.addresses()
    assert found and all(ipaddress.ip_address(address).is_private for address in found)


def test_the_first_way_that_works_is_taken(broker: Answering) -> None:
    url = "redis://ep:secret@127.0.0.1:1/0"
    good = Route.parse(f"relay=127.0.0.1:{broker.port}")
    assert routes.choose(url, [Route.parse("direct="), good, Route("tunnel", "127.0.0.1:1")]) == good
    assert any(b"secret" in data for data in broker.heard), "the account itself has been tried"
    assert str(good) == f"relay=127.0.0.1:{broker.port}"


def test_no_way_is_told_with_every_reason() -> None:
    with pytest.raises(NoRoute, match="direct=: .*relay=127.0.0.1:1: ") as raised:
        routes.choose(
            "redis://ep:secret@127.0.0.1:1/0",
            [Route("direct", ""), Route("relay", "127.0.0.1:1")],
            patience=0,
        )
    assert "secret" not in str(raised.value)


def _gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _say_nothing(port: int) -> bool:
    try:
        return _say("127.0.0.1", port) == b""
    except ConnectionError:
        return True
