"""A reverse tunnel from a site's nodes to the broker over the provisioner's SSH connection."""

from __future__ import annotations

import logging
import select
import socket
import threading
from contextlib import suppress
from typing import Any

import paramiko

from .shell import SiteError
from .ssh import SSHShell

log = logging.getLogger(__name__)

#: Seconds to connect to the broker.
CONNECT_TIMEOUT = 10.0
LOOPBACK = ("127.0.0.1", "localhost", "::1")
#: Errors of a broken connection.
_BROKEN = (paramiko.SSHException, OSError, EOFError)
_ANY = ("", "0.0.0.0", "::", "*")
_CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 5).close()"


class Tunnel:
    """Forwards connections to ``bind:port`` on the site to ``target`` (host, port).

    This process connects to ``target``. ``python``: Python command on the site, used to test the tunnel.
    """

    def __init__(
        self, shell: SSHShell, bind: str, port: int, target: tuple[str, int], python: str = "python3"
    ):
        self._shell = shell
        self.bind, self._port = bind, port
        self._target = target
        self._python = python
        self._transport: paramiko.Transport | None = None

    @property
    def port(self) -> int:
        """The port on the site; 0 before the first ``ensure_open`` if any port was requested."""
        return self._port

    @property
    def host(self) -> str:
        """The address at which nodes reach it; the site's own if it listens on all addresses."""
        return self._shell.address.host if self.bind in _ANY else self.bind

    def ensure_open(self) -> None:
        """Open the tunnel, or reopen it after its connection broke. Raises SiteError.

        sshd accepts a request for any address but listens on loopback only, unless ``GatewayPorts`` allows
        more. Therefore the tunnel is tested from the site.
        """
        if self._transport is not None and self._transport.is_active():
            return
        self._transport, self._port = self._shell.forward(self.bind, self._port, self._accept)
        if self.bind not in LOOPBACK and not self._reachable():
            raise SiteError(
                f"nodes cannot reach the tunnel at {self.host}:{self._port}: the sshd of "
                f"{self._shell.address.host} needs 'GatewayPorts clientspecified'"
            )

    def close(self) -> None:
        """Stop listening."""
        if self._transport is not None and self._transport.is_active():
            try:
                self._transport.cancel_port_forward(self.bind, self._port)
            except _BROKEN as error:
                log.debug("%s: the tunnel was not cancelled: %s", self._shell.address, error)
        self._transport = None

    def _reachable(self) -> bool:
        words = [self._python, "-c", _CONNECT, self.host, str(self._port)]
        return self._shell.run(words, timeout=20).code == 0

    def _accept(self, channel: paramiko.Channel, origin: Any, server: Any) -> None:
        # runs in paramiko's thread, which must not block
        threading.Thread(target=self._forward, args=(channel,), name="umbel-tunnel", daemon=True).start()

    def _forward(self, channel: paramiko.Channel) -> None:
        try:
            with socket.create_connection(self._target, CONNECT_TIMEOUT) as broker:
                broker.settimeout(60.0)
                broker.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                _pump(channel, broker)
        except _BROKEN as error:
            log.warning("%s: tunnel connection closed: %s", self._shell.address, error or "connection lost")
        finally:
            with suppress(*_BROKEN):
                channel.close()


def _pump(channel: paramiko.Channel, broker: socket.socket) -> None:
    """Copy bytes in both directions until one side ends."""
    while True:
        # poll, not select: select does not support file descriptors above 1023
        ready = _ready(channel, broker)
        for source, sink in ((channel, broker), (broker, channel)):
            if source.fileno() in ready:
                data = source.recv(65536)
                if not data:
                    return
                sink.sendall(data)


def _ready(*ends: Any) -> set[int]:
    poll = select.poll()
    for end in ends:
        poll.register(end.fileno(), select.POLLIN)
    return {number for number, _ in poll.poll()}
