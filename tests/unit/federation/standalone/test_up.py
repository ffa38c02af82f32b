"""Addresses: where ``up`` listens, and the URL for clients."""

from __future__ import annotations

import socket

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
