"""How a site's nodes reach the broker: directly, by a relay on the login node, or over the SSH connection.

::

    direct    node ──────────────────────────▶ broker
    relay     node ──▶ login node ───────────▶ broker
    relay     node ──▶ login node ═══ SSH ═══▶ here ──▶ broker    the login node cannot reach the broker
    tunnel    node ──▶ its sshd ═════ SSH ═══▶ here ──▶ broker    sshd listens for the nodes

The route is determined by tests: the provisioner checks whether the login node reaches the broker. The
workers of a block try the remaining routes in order and report which one works; later blocks try that one
first.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..connection.shell import Shell, SiteError
from ..connection.ssh import SSHShell
from ..connection.tunnel import LOOPBACK, Tunnel
from ..records.sites import SiteSettings

log = logging.getLogger(__name__)

#: Seconds to start a relay: starting Python may be slow on a shared file system.
RELAY_TIMEOUT = 90.0
#: Check that a broker answers PING without a login.
_PROBE = """\
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 5) as s:
    s.settimeout(5)
    s.sendall(b"PING\\r\\n")
    answer = s.recv(64)
sys.exit(not answer.startswith((b"+PONG", b"-NOAUTH", b"-ERR", b"-DENIED")))
"""


class Installation(NamedTuple):
    """Umbel on a site: its directory, its environment and the endpoint's name."""

    folder: str
    env: str
    endpoint: str


class Network:
    """The routes from one site to the broker.

    ``here``: host and port of the broker for this process; ``public``: for endpoints.
    """

    def __init__(
        self,
        shell: Shell,
        settings: SiteSettings,
        endpoint_id: str,
        here: tuple[str, int],
        public: tuple[str, int],
    ):
        self._shell = shell
        self._settings = settings
        self._here, self._public = here, public
        # fixed ports, so that workers can reconnect after the provisioner or the relay restarts
        self._port = settings.tunnel_port or 20_000 + int(endpoint_id[:8], 16) % 12_000
        self._tunnel: Tunnel | None = None
        self._relay: tuple[Installation, tuple[str, int]] | None = None
        self._routes: list[str] | None = None
        self._relay_stopped = False

    def routes(self, installation: Installation, confirmed: str = "") -> list[str]:
        """Return ``name=host:port`` of each route for workers to try, ``confirmed`` first; []: direct only.

        Starts the relay and the tunnel if they may be needed. Raises SiteError if no route is available.
        """
        if self._settings.network == "direct" or not isinstance(self._shell, SSHShell):
            return []
        if self._routes is None:
            self._routes = self._find_routes(self._shell, installation, confirmed)
        elif self._relay_stopped:
            self.ensure_relay(confirmed)
        return sorted(self._routes, key=lambda route: route != confirmed)

    def invalidate(self) -> None:
        """Determine the routes again at the next use, because a block ended without a worker."""
        self._routes = None

    def ensure_tunnel(self) -> None:
        """Reopen the tunnel if it broke; costs nothing otherwise. Raises SiteError."""
        if self._tunnel is not None:
            self._tunnel.ensure_open()

    def ensure_relay(self, confirmed: str) -> None:
        """Restart the relay if workers use it and it has ended: one command. Raises SiteError."""
        if self._relay is not None and not confirmed.startswith(("direct", "tunnel")):
            self._ensure_relay(*self._relay)

    def stop_relay(self) -> None:
        """Stop the relay while there are no blocks, to leave the login node idle. Raises SiteError."""
        if self._relay is not None and not self._relay_stopped:
            self._shell.run([*_relay_command(self._relay[0]), "--stop"], timeout=RELAY_TIMEOUT)
            self._relay_stopped = True

    def _find_routes(self, shell: SSHShell, installation: Installation, confirmed: str) -> list[str]:
        wanted, on_login = self._settings.network, self._settings.scheduler == "processes"
        broker_answers = wanted != "tunnel" and self._broker_answers(shell)
        if broker_answers and (on_login or confirmed.startswith("direct=")) and wanted == "auto":
            return ["direct="]
        if broker_answers:
            direct = ["direct="] if wanted == "auto" else []
            return direct + self._ensure_relay(installation, self._public)
        if wanted == "tunnel" or on_login:
            return self._ensure_tunnel(shell, self._settings.tunnel_bind)
        if self._settings.tunnel_bind not in LOOPBACK:
            try:
                return self._ensure_tunnel(shell, self._settings.tunnel_bind)
            except SiteError as error:
                log.warning("%s; using a relay on the login node instead", error.message)
        self._ensure_tunnel(shell, "127.0.0.1")
        assert self._tunnel is not None
        return self._ensure_relay(installation, ("127.0.0.1", self._tunnel.port))

    def _broker_answers(self, shell: Shell) -> bool:
        """Whether the login node reaches the broker at its public address."""
        host, port = self._public
        return shell.run([self._settings.python, "-c", _PROBE, host, str(port)], timeout=30).code == 0

    def _ensure_tunnel(self, shell: SSHShell, bind: str) -> list[str]:
        if self._tunnel is not None and self._tunnel.bind != bind:
            self._tunnel.close()
            self._tunnel = None
        tunnel = self._tunnel or Tunnel(shell, bind, self._port, self._here, self._settings.python)
        self._tunnel = tunnel
        try:
            tunnel.ensure_open()
        except SiteError:
            tunnel.close()
            self._tunnel = None
            raise
        return [f"tunnel={tunnel.host}:{tunnel.port}"]

    def _ensure_relay(self, installation: Installation, upstream: tuple[str, int]) -> list[str]:
        """Start the relay if it does not run; return the routes through it."""
        self._relay, self._relay_stopped = (installation, upstream), False
        words = [*_relay_command(installation), "--port", str(self._port + 1)]
        words += ["--upstream", f"{upstream[0]}:{upstream[1]}"]
        for address in self._settings.relay_listen:
            words += ["--listen", address]
        done = self._shell.run(words, timeout=RELAY_TIMEOUT)
        try:
            found: dict[str, Any] = json.loads(done.out)
            return [f"relay={address}:{found['port']}" for address in found["addresses"]]
        except (ValueError, TypeError, KeyError):
            raise SiteError(
                f"{installation.endpoint}: cannot start a relay on the login node: {done.message}"
            ) from None

    def stop(self) -> None:
        """Forget all routes; the tunnel ends with the connection, and a relay ends by itself."""
        self._tunnel = self._relay = self._routes = None


def _relay_command(installation: Installation) -> list[str]:
    words = ["env", f"UMBEL_HOME={installation.folder}", f"{installation.env}/bin/umbel-endpoint"]
    return [*words, "relay", installation.endpoint]


def route_options(routes: Sequence[str]) -> list[str]:
    """Return the worker's command-line options for these routes."""
    return [word for route in routes for word in ("--way", route)]
