"""A cluster's network on this machine: a login node, two compute nodes, their own addresses, no way out."""

from __future__ import annotations

import fcntl
import subprocess
from collections.abc import Sequence
from pathlib import Path

BRIDGE, NET = "umbel-e2e0", "10.201.37"
#: Node → last part of its address.
NODES = {"login": 1, "cn1": 11, "cn2": 12}


class Network:
    """Network namespaces ``ue-login``, ``ue-cn1``, ``ue-cn2`` behind a bridge; this machine is .254."""

    def __init__(self) -> None:
        # there is one such network on a machine; another run's has to go first
        self._lock = open("/var/tmp/umbel-e2e-network.lock", "w")  # noqa: SIM115 (held as long as this)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.remove()
        _ip("link", "add", BRIDGE, "type", "bridge")
        _ip("addr", "add", f"{NET}.254/24", "dev", BRIDGE)
        _ip("link", "set", BRIDGE, "up")
        for name in NODES:
            space = f"ue-{name}"
            _ip("netns", "add", space)
            _ip("link", "add", f"uv-{name}", "type", "veth", "peer", "name", "eth0", "netns", space)
            _ip("link", "set", f"uv-{name}", "master", BRIDGE, "up")
            _ip("-n", space, "link", "set", "lo", "up")
            _ip("-n", space, "addr", "add", f"{self.address(name)}/24", "dev", "eth0")
            _ip("-n", space, "link", "set", "eth0", "up")

    def close(self) -> None:
        """Take it down and let others have theirs."""
        self.remove()
        self._lock.close()

    @staticmethod
    def address(name: str) -> str:
        """A node's address."""
        return f"{NET}.{NODES[name]}"

    @staticmethod
    def wrap(name: str) -> Sequence[str]:
        """Words that run a command on a node, under its host name."""
        inside = ["nsenter", f"--net=/run/netns/ue-{name}", "unshare", "--uts"]
        return [*inside, "sh", "-c", 'hostname "$0"; exec "$@"', name]

    @staticmethod
    def link(name: str, state: str) -> None:
        """Cut a node's cable ("down"), or mend it ("up")."""
        _ip("-n", f"ue-{name}", "link", "set", "eth0", state)

    @staticmethod
    def remove() -> None:
        """Take it all down."""
        for name in NODES:
            if Path(f"/run/netns/ue-{name}").exists():
                _ip("netns", "del", f"ue-{name}")
        if Path(f"/sys/class/net/{BRIDGE}").exists():
            _ip("link", "del", BRIDGE)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=20)
