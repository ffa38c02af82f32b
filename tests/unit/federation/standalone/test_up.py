"""Addresses: where ``up`` listens, and the URL for clients. The status file on a full disk."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

import pytest

from federation.standalone import up
from federation.standalone.files import StartError


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("", "127.0.0.1"),
        ("::", "[::1]"),
        ("::1", "[::1]"),
        ("lab.example", "lab.example"),
    ],
)
def test_clients_of_this_machine_get_an_address_they_can_reach(host: str, address: str) -> None:
    assert up._client_host(host) == address


def test_any_port_is_a_free_one() -> None:
    port = up._usable_port("127.0.0.1", 0, "--port")
    with socket.create_server(("127.0.0.1", port)), pytest.raises(StartError, match="--port"):
        up._usable_port("127.0.0.1", port, "--port")


def test_a_host_without_address_is_a_sentence() -> None:
    with pytest.raises(StartError, match="no-such-host.invalid.*--port"):
        up._usable_port("no-such-host.invalid", 1, "--port")


def test_a_status_file_that_could_not_be_written_is_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On a full disk; otherwise it would name processes that have ended until the next one ends."""
    federation = up.Up(up._parser().parse_args(["--home", str(tmp_path), "--port", "1", "--workers", "0"]))
    federation.url = "http://127.0.0.1:1"
    intervals: list[float] = []
    written: list[str] = []

    class Stub:
        """Runs six steps of the loop; its children never change."""

        stopping = False
        children: dict[str, object] = {}

        def step(self, timeout: float) -> None:
            intervals.append(timeout)
            self.stopping = len(intervals) == 6

    def write_status(home: Path, url: str, children: object) -> None:
        if len(intervals) < 4:
            raise OSError(errno.ENOSPC, "No space left on device", str(home / "status.json"))
        written.append(url)

    monkeypatch.setattr(up.run_state, "write_status", write_status)
    monkeypatch.setattr(up.Startup, "start_processes", lambda startup: federation._changed())
    monkeypatch.setattr(up.Startup, "done", True, raising=False)
    monkeypatch.setattr(up.Startup, "__init__", lambda *_: None)
    monkeypatch.setattr(federation, "supervisor", Stub(), raising=False)
    (tmp_path / "run").mkdir()
    (logs := tmp_path / "logs").mkdir()
    try:
        federation._start_and_wait(logs)
    finally:
        federation.starting.release()
    assert written == [federation.url]
    assert max(intervals[:4]) <= up.RETRY_INTERVAL and min(intervals[4:]) == up.IDLE_INTERVAL
    assert len([record for record in caplog.records if "status.json" in record.getMessage()]) == 1
