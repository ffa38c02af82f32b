"""The proxy does to bytes what a test asks for, and forwards them unchanged otherwise."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.support.chaos_proxy import ChaosProxy


@pytest.fixture
def proxy() -> Iterator[ChaosProxy]:
    """A proxy before a server that sends back what it receives."""
    listener = socket.create_server(("127.0.0.1", 0))

    def echo(connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(65536):
                    connection.sendall(data)
            except OSError:
                pass

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=echo, args=(connection,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    with ChaosProxy(("127.0.0.1", listener.getsockname()[1])) as proxy:
        yield proxy
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def connect(proxy: ChaosProxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=10)


def received(connection: socket.socket) -> bytes:
    data = b""
    while chunk := connection.recv(65536):
        data += chunk
    return data


def test_bytes_pass_unchanged_to_their_end(proxy: ChaosProxy) -> None:
    sent = bytes(range(256)) * 4000
    with connect(proxy) as connection:
        threading.Thread(
            target=lambda: (connection.sendall(sent), connection.shutdown(socket.SHUT_WR)), daemon=True
        ).start()
        assert received(connection) == sent
    assert proxy.accepted == 1 and proxy.up.passed == proxy.down.passed == len(sent)


def test_a_rate_and_a_delay_are_kept(proxy: ChaosProxy) -> None:
    proxy.up.rate = 200_000
    proxy.down.delay = 0.2
    with connect(proxy) as connection:
        before = time.monotonic()
        connection.sendall(bytes(100_000))
        connection.shutdown(socket.SHUT_WR)
        assert len(received(connection)) == 100_000
        assert 0.6 < time.monotonic() - before < 5


def test_connections_are_cut_on_demand_and_after_a_number_of_bytes(proxy: ChaosProxy) -> None:
    with connect(proxy) as connection:
        connection.sendall(b"1")
        assert connection.recv(1) == b"1"
        assert proxy.cut() == 1
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    proxy.up.cut_after = 1000
    with connect(proxy) as connection:
        connection.sendall(bytes(1000))
        with pytest.raises(ConnectionResetError):
            received(connection)
    proxy.refuse = True
    with pytest.raises(ConnectionResetError), connect(proxy) as connection:
        connection.recv(1)


def test_a_black_hole_keeps_the_connection_and_passes_nothing(proxy: ChaosProxy) -> None:
    with connect(proxy) as connection:
        proxy.up.hole = True
        connection.sendall(b"x")
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        proxy.up.hole = False
        connection.settimeout(10)
        assert connection.recv(1) == b"x"
