"""A way from a site's nodes to the broker through the provisioner's own SSH connection."""

from __future__ import annotations

import logging
import select
import socket
import threading
from typing import Any

import paramiko

from .shell import SiteError
from .ssh import SSHShell

log = logging.getLogger(__name__)

#: Seconds to reach the broker from here.
CONNECT_TIMEOUT = 10.0


class Tunnel:
    """Connections to ``bind:port`` on the site come out at ``target`` (host, port) here."""

    def __init__(self, shell: SSHShell, bind: str, port: int, target: tuple[str, int]):
        self._shell = shell
        self._bind, self._port = bind, port
        self._target = target
        self._transport: paramiko.Transport | None = None

    @property
    def port(self) -> int:
        """The port on the site; 0 before the first ``keep``."""
        return self._port

    def keep(self) -> None:
        """Open the tunnel, or open it again after its connection broke. Raises SiteError.

        sshd says yes to any address and then listens on loopback alone unless ``GatewayPorts`` allows more;
        so the site itself is asked where it listens.
        """
        if self._transport is not None and self._transport.is_active():
            return
        self._transport, self._port = self._shell.forward(self._bind, self._port, self._take)
        if self._bind not in ("127.0.0.1", "localhost") and not self._reachable():
            raise SiteError(
                f"{self._shell.address.host} keeps the tunnel to itself, nodes cannot reach "
                f"{self._bind}:{self._port}: its sshd wants 'GatewayPorts clientspecified'"
            )

    def _reachable(self) -> bool:
        code = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 5).close()"
        host = self._bind if self._bind not in ("", "0.0.0.0", "::") else self._shell.address.host
        return self._shell.run(["python3", "-c", code, host, str(self._port)], timeout=20).code == 0

    def _take(self, channel: paramiko.Channel, origin: Any, server: Any) -> None:
        # in paramiko's own thread: it must not wait here
        threading.Thread(target=self._carry, args=(channel,), name="umbel-tunnel", daemon=True).start()

    def _carry(self, channel: paramiko.Channel) -> None:
        try:
            with socket.create_connection(self._target, CONNECT_TIMEOUT) as broker:
                broker.settimeout(60.0)
                broker.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                _pump(channel, broker)
        except OSError as error:
            log.warning("tunnel of %s: %s", self._shell.address, error)
        finally:
            channel.close()


def _pump(channel: paramiko.Channel, broker: socket.socket) -> None:
    """Carry bytes both ways until one side ends."""
    while True:
        ready, _, _ = select.select([channel, broker], [], [])
        for source, sink in ((channel, broker), (broker, channel)):
            if source in ready:
                data = source.recv(65536)
                if not data:
                    return
                sink.sendall(data)
