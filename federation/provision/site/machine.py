"""Access to a site: its shell, its batch system and its network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ...context import Federation
from ..connection import keys
from ..connection.shell import LocalShell, Shell, SiteError
from ..connection.ssh import Address, Hop, SSHShell
from ..records.sites import Site
from ..schedulers.base import Scheduler
from ..schedulers.gridengine import GridEngine
from ..schedulers.htcondor import HTCondor
from ..schedulers.lsf import LSF
from ..schedulers.pbs import PBS
from ..schedulers.processes import Hosts, Processes
from ..schedulers.slurm import Slurm
from .network import Network

_SIMPLE: dict[str, Callable[[], Scheduler]] = {
    "slurm": Slurm,
    "gridengine": GridEngine,
    "pbs": PBS,
    "lsf": LSF,
    "htcondor": HTCondor,
}


class Machine:
    """One site; the connection is opened at first use. ``home``: directory of the service, with its keys.

    ``broker``: ``host:port`` of the broker for this process; ``public``: for endpoints, if it differs.
    """

    def __init__(self, site: Site, home: Path, broker: str, public: str = ""):
        self.site = site
        self._home = home
        self._broker = broker, public or broker
        self.shell = self._open(site.settings.address)
        self.network = Network(
            self.shell,
            site.settings,
            site.endpoint_id,
            _host_and_port(broker),
            _host_and_port(public or broker),
        )
        self._hosts: dict[str, Shell] = {}
        self._folder = ""

    @property
    def folder(self) -> str:
        """Umbel's directory on the site, absolute. Raises SiteError."""
        if not self._folder:
            self._folder = self._absolute(self.site.settings.folder)
        return self._folder

    def _absolute(self, path: str) -> str:
        if path.startswith("/"):
            return path
        done = self.shell.run(["sh", "-c", "cd && pwd -P"])
        if done.code != 0 or not done.out.strip().startswith("/"):
            raise SiteError(
                f"{self.site.settings.address}: the account has no home directory: {done.message}"
            )
        return f"{done.out.strip()}/{path.removeprefix('~/')}"

    @property
    def blocks(self) -> str:
        """Directory of scripts and output of blocks on the site."""
        return f"{self.folder}/blocks/{self.site.endpoint_name}"

    def scheduler(self) -> Scheduler:
        """Return the site's batch system. Raises SiteError."""
        kind, policy = self.site.settings.scheduler, self.site.policy
        if kind in _SIMPLE:
            return _SIMPLE[kind]()
        if kind == "processes":
            return Processes(self.blocks, policy.max_blocks)
        hosts = self.site.settings.hosts
        per_host = -(-policy.max_blocks // len(hosts))
        return Hosts(hosts, self._host, self.blocks, per_host)

    def shells(self) -> list[Shell]:
        """Return the shells of all machines that need the environment: the site, or each of its ``hosts``."""
        if self.site.settings.scheduler != "hosts":
            return [self.shell]
        return [self._host(name) for name in self.site.settings.hosts]

    def close(self) -> None:
        """Close all connections."""
        self.network.stop()
        for shell in (self.shell, *self._hosts.values()):
            if isinstance(shell, SSHShell):
                shell.close()

    def _open(self, address: str) -> Shell:
        settings = self.site.settings
        if address == "local":
            return LocalShell()
        route = [Address.parse(text) for text in (*settings.jumps, address)]
        if len(settings.host_keys) < len(route):
            raise SiteError(f"{address}: the host key is not confirmed yet")
        hops = [Hop(target, key) for target, key in zip(route, settings.host_keys)]
        return SSHShell(hops, self._keys())

    def _keys(self) -> list:
        settings = self.site.settings
        if settings.agent:
            return []
        if settings.key_file:
            return [keys.load_key(Path(settings.key_file).expanduser())]
        return [keys.site_key(self._home, self.site.endpoint_id)]

    def _host(self, name: str) -> Shell:
        """Return the shell of one of ``hosts``, connected through the site's jump hosts."""
        if name in ("localhost", self.site.settings.address):
            return self.shell
        if name not in self._hosts:
            settings = self.site.settings
            extra = settings.host_keys[len(settings.jumps) + 1 :]
            number = settings.hosts.index(name)
            if number >= len(extra):
                raise SiteError(f"host {name}: the host key is not confirmed yet")
            route = [Address.parse(text) for text in settings.jumps]
            hops = [Hop(target, key) for target, key in zip(route, settings.host_keys)]
            hops.append(Hop(Address.parse(name), extra[number]))
            self._hosts[name] = SSHShell(hops, self._keys())
        return self._hosts[name]


def open_machine(fed: Federation, site: Site) -> Machine:
    """Return the machine of a site, not connected yet."""
    return Machine(site, fed.settings.home, fed.broker.address, fed.settings.broker_address)


def refresh(machine: Machine, site: Site) -> Machine:
    """Update a machine to the current policy; replace it if the settings of the site have changed."""
    if machine.site.settings == site.settings:
        machine.site = replace(site)
        return machine
    machine.close()
    return Machine(site, machine._home, *machine._broker)


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port or 0)
