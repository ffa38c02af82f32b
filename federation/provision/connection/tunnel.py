"""A way from a site's nodes to the broker through the provisioner's own SSH connection."""

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

#: Seconds to reach the broker from here.
CONNECT_TIMEOUT = 10.0
LOOPBACK = ("127.0.0.1", "localhost", "::1")
#: What tells that a connection is no more.
_BROKEN = (paramiko.SSHException, OSError, EOFError)
_ANY = ("", "0.0.0.0", "::", "*")
_CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 5).close()"


class Tunnel:
    """Connections to ``bind:port`` on the site come out at ``target`` (host, port) here.

    ``python``: the site's Python, with which it is asked where it listens.
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
        """The port on the site; 0 before the first ``keep``."""
        return self._port

    @property
    def host(self) -> str:
        """The address at which nodes reach it: that of the site where it listens on all."""
        return self._shell.address.host if self.bind in _ANY else self.bind

    def keep(self) -> None:
        """Open the tunnel, or open it again after its connection broke. Raises SiteError.

        sshd says yes to any address and then listens on loopback alone unless ``GatewayPorts`` allows more;
        so the site itself is asked where it listens.
        """
        if self._transport is not None and self._transport.is_active():
            return
        self._transport, self._port = self._shell.forward(self.bind, self._port, self._take)
        if self.bind not in LOOPBACK and not self._reachable():
            raise SiteError(
                f"{self._shell.address.host} keeps the tunnel to itself, nodes cannot reach "
                f"{self.host}:{self._port}: its sshd wants 'GatewayPorts clientspecified'"
            )

    def close(self) -> None:
        """Listen no more."""
        if self._transport is not None and self._transport.is_active():
            try:
                self._transport.cancel_port_forward(self.bind, self._port)
            except _BROKEN as error:
                log.debug("the tunnel of %s was not cancelled: %s", self._shell.address, error)
        self._transport = None

    def _reachable(self) -> bool:
        words = [self._python, "-c", _CONNECT, self.host, str(self._port)]
        return self._shell.run(words, timeout=20).code == 0

    def _take(self, channel: paramiko.Channel, origin: Any, server: Any) -> None:
        # in paramiko's own thread: it must not wait here
        threading.Thread(target=self._carry, args=(channel,), name="umbel-tunnel", daemon=True).start()

    def _carry(self, channel: paramiko.Channel) -> None:
        try:
            with socket.create_connection(self._target, CONNECT_TIMEOUT) as broker:
                broker.settimeout(60.0)
                broker.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                _pump(channel, broker)
        except _BROKEN as error:
            log.warning("tunnel of %s: %s", self._shell.address, error or "the connection ended")
        finally:
            with suppress(*_BROKEN):
                channel.close()


def _pump(channel: paramiko.Channel, broker: socket.socket) -> None:
    """Carry bytes both ways until one side ends."""
    while True:
        # not select(): with many connections there are numbers that it does not take
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
