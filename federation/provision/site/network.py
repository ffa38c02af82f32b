"""How a site's nodes reach the broker: directly, by a relay on the login node, or by our SSH connection.

::

    direct    node ──────────────────────────▶ broker
    relay     node ──▶ login node ───────────▶ broker
    relay     node ──▶ login node ═══ SSH ═══▶ here ──▶ broker    the login node has no way out either
    tunnel    node ──▶ its sshd ═════ SSH ═══▶ here ──▶ broker    sshd itself listens for the nodes

What works is found out, not guessed: the login node is asked whether the broker answers there, and the
workers of a block try the ways that are left in order and say which they took. It comes first from then on.
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

#: Seconds to start a relay: on a slow shared file system a Python takes its time.
RELAY_TIMEOUT = 90.0
#: What a broker answers to PING without an account.
_PROBE = """\
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 5) as s:
    s.settimeout(5)
    s.sendall(b"PING\\r\\n")
    answer = s.recv(64)
sys.exit(not answer.startswith((b"+PONG", b"-NOAUTH", b"-ERR", b"-DENIED")))
"""


class Place(NamedTuple):
    """Where the provisioner's commands find Umbel on the site."""

    folder: str
    env: str
    endpoint: str


class Network:
    """The ways from one site to the broker.

    ``here``: host and port at which this process reaches it; ``public``: those that endpoints are given.
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
        # always the same ports, so that workers find the way again when processes are other ones
        self._port = settings.tunnel_port or 20_000 + int(endpoint_id[:8], 16) % 12_000
        self._tunnel: Tunnel | None = None
        self._relay: tuple[Place, tuple[str, int]] | None = None
        self._ways: list[str] | None = None
        self._resting = False

    def ways(self, place: Place, proved: str = "") -> list[str]:
        """``name=host:port`` of every way that a worker may try, the ``proved`` one first; []: no choice.

        Makes relay and tunnel where they may be needed. Raises SiteError while the only way cannot be had.
        """
        if self._settings.network == "direct" or not isinstance(self._shell, SSHShell):
            return []
        if self._ways is None:
            self._ways = self._find(self._shell, place, proved)
        elif self._resting:
            self.keep_relay(proved)
        return sorted(self._ways, key=lambda way: way != proved)

    def doubt(self) -> None:
        """Find the ways anew at the next need: a block has ended without a worker."""
        self._ways = None

    def keep(self) -> None:
        """Mend the tunnel if there is one and it broke: costs nothing while it stands. Raises SiteError."""
        if self._tunnel is not None:
            self._tunnel.keep()

    def keep_relay(self, proved: str) -> None:
        """Start the relay again if workers use it and it has ended: one command. Raises SiteError."""
        if self._relay is not None and not proved.startswith(("direct", "tunnel")):
            self._start_relay(*self._relay)

    def rest(self) -> None:
        """End the relay, as there are no blocks: nothing of ours runs on the login node. Raises SiteError."""
        if self._relay is not None and not self._resting:
            self._shell.run([*_relay_command(self._relay[0]), "--stop"], timeout=RELAY_TIMEOUT)
            self._resting = True

    def _find(self, shell: SSHShell, place: Place, proved: str) -> list[str]:
        wanted, on_login = self._settings.network, self._settings.scheduler == "processes"
        reached = wanted != "tunnel" and self._reached(shell)
        if reached and (on_login or proved.startswith("direct=")) and wanted == "auto":
            return ["direct="]
        if reached:
            direct = ["direct="] if wanted == "auto" else []
            return direct + self._start_relay(place, self._public)
        if wanted == "tunnel" or on_login:
            return self._open_tunnel(shell, self._settings.tunnel_bind)
        if self._settings.tunnel_bind not in LOOPBACK:
            try:
                return self._open_tunnel(shell, self._settings.tunnel_bind)
            except SiteError as error:
                log.warning("%s; a relay on the login node is used instead", error.message)
        self._open_tunnel(shell, "127.0.0.1")
        assert self._tunnel is not None
        return self._start_relay(place, ("127.0.0.1", self._tunnel.port))

    def _reached(self, shell: Shell) -> bool:
        """Whether the broker itself answers on the login node, at the address that endpoints are given."""
        host, port = self._public
        return shell.run([self._settings.python, "-c", _PROBE, host, str(port)], timeout=30).code == 0

    def _open_tunnel(self, shell: SSHShell, bind: str) -> list[str]:
        if self._tunnel is not None and self._tunnel.bind != bind:
            self._tunnel.close()
            self._tunnel = None
        tunnel = self._tunnel or Tunnel(shell, bind, self._port, self._here, self._settings.python)
        self._tunnel = tunnel
        try:
            tunnel.keep()
        except SiteError:
            tunnel.close()
            self._tunnel = None
            raise
        return [f"tunnel={tunnel.host}:{tunnel.port}"]

    def _start_relay(self, place: Place, upstream: tuple[str, int]) -> list[str]:
        """Have it run; return the ways that it makes."""
        self._relay, self._resting = (place, upstream), False
        words = [*_relay_command(place), "--port", str(self._port + 1)]
        words += ["--upstream", f"{upstream[0]}:{upstream[1]}"]
        for address in self._settings.relay_listen:
            words += ["--listen", address]
        done = self._shell.run(words, timeout=RELAY_TIMEOUT)
        try:
            found: dict[str, Any] = json.loads(done.out)
            return [f"relay={address}:{found['port']}" for address in found["addresses"]]
        except (ValueError, TypeError, KeyError):
            raise SiteError(f"{place.endpoint}: no relay on the login node: {done.said}") from None

    def stop(self) -> None:
        """Forget the tunnel, which ends with the connection; a relay ends by itself."""
        self._tunnel = self._relay = self._ways = None


def _relay_command(place: Place) -> list[str]:
    words = ["env", f"UMBEL_HOME={place.folder}", f"{place.env}/bin/umbel-endpoint"]
    return [*words, "relay", place.endpoint]


def way_words(ways: Sequence[str]) -> list[str]:
    """The worker's options for these ways."""
    return [word for way in ways for word in ("--way", way)]
