"""A cluster's network on this machine: a login node, two compute nodes, their own addresses, no way out."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

BRIDGE, NET = "umbel-e2e0", "10.201.37"
#: Node → last part of its address.
NODES = {"login": 1, "cn1": 11, "cn2": 12}
#: Where the service's broker listens: a network of its own, which nodes reach while their wall is open.
BROKER = "10.201.38.1"


class Network:
    """Network namespaces ``ue-login``, ``ue-cn1``, ``ue-cn2`` behind a bridge; this machine is .254.

    ``folder``: for the ``/etc/hosts`` that the nodes see; other accounts must be able to read it.
    """

    def __init__(self, folder: Path) -> None:
        # there is one such network on a machine; another run's has to go first
        self._lock = open("/var/tmp/umbel-e2e-network.lock", "w")  # noqa: SIM115 (held as long as this)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.remove()
        self._hosts = folder / "hosts"
        lines = ["127.0.0.1 localhost", *(f"{self.address(name)} {name}" for name in NODES)]
        self._hosts.write_text("\n".join(lines) + "\n")
        _ip("link", "add", BRIDGE, "type", "bridge")
        _ip("addr", "add", f"{NET}.254/24", "dev", BRIDGE)
        _ip("addr", "add", f"{BROKER}/32", "dev", BRIDGE)
        _ip("link", "set", BRIDGE, "up")
        for name in NODES:
            space = f"ue-{name}"
            _ip("netns", "add", space)
            _ip("link", "add", f"uv-{name}", "type", "veth", "peer", "name", "eth0", "netns", space)
            _ip("link", "set", f"uv-{name}", "master", BRIDGE, "up")
            _ip("-n", space, "link", "set", "lo", "up")
            _ip("-n", space, "addr", "add", f"{self.address(name)}/24", "dev", "eth0")
            self.link(name, "up")

    def close(self) -> None:
        """Take it down and let others have theirs."""
        self.remove()
        self._lock.close()

    @staticmethod
    def address(name: str) -> str:
        """A node's address."""
        return f"{NET}.{NODES[name]}"

    def wrap(self, name: str) -> Sequence[str]:
        """Words that run a command on a node, under its host name and with its own ``/etc/hosts``."""
        # not `ip netns exec`: that mounts another /sys, in which slurmd finds no control groups
        inside = ["nsenter", f"--net=/run/netns/ue-{name}", "unshare", "--uts", "--mount"]
        script = f'hostname "$0"; mount --bind {self._hosts} /etc/hosts; exec "$@"'
        return [*inside, "--propagation", "slave", "sh", "-c", script, name]

    @staticmethod
    def link(name: str, state: str) -> None:
        """Cut a node's cable ("down"), or mend it ("up")."""
        _ip("-n", f"ue-{name}", "link", "set", "eth0", state)
        if state == "up":  # a cable that is cut takes the routes with it
            Network.wall(name, closed=False)

    @staticmethod
    def wall(name: str, *, closed: bool) -> None:
        """Let a node reach the broker or not. It always reaches the other nodes."""
        way = [BROKER, "via", f"{NET}.254"]
        if closed:
            subprocess.run(
                ["ip", "-n", f"ue-{name}", "route", "del", BROKER], capture_output=True, timeout=20
            )
        else:
            _ip("-n", f"ue-{name}", "route", "replace", *way)

    @staticmethod
    def remove() -> None:
        """Take it all down, with whatever still runs in it."""
        for name in NODES:
            if Path(f"/run/netns/ue-{name}").exists():
                for pid in _ip("netns", "pids", f"ue-{name}").split():
                    try:
                        os.kill(int(pid), signal.SIGKILL)
                    except ProcessLookupError:
                        continue
                _ip("netns", "del", f"ue-{name}")
        if Path(f"/sys/class/net/{BRIDGE}").exists():
            _ip("link", "del", BRIDGE)


def _ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, timeout=20, text=True).stdout
