"""One cluster for all tests of a run: a login node, two compute nodes, Slurm, GridEngine and sshd."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from functools import cached_property
from pathlib import Path
from typing import Any

from tests.support.wait import wait_until

from .elastic import Elastic
from .gridengine import GridEngine
from .machines import Account, Sshd, need
from .network import Network
from .slurm import Slurm

COMPUTE = ("cn1", "cn2")
#: Blocks of two slots that come and go within seconds.
POLICY: dict[str, Any] = {
    "max_blocks": 2,
    "slots_per_node": 2,
    "idle_time": 4,
    "walltime": 900,
    "slot_work": 1,
    "grace": 30,
    "drain_margin": 60,
}


def work(number: int, seconds: float = 0.1) -> tuple[int, str, str]:
    """What tests call: the number back, and which job on which node did it."""
    import os
    import socket
    import time

    time.sleep(seconds)
    job = os.environ.get("SLURM_JOB_ID") or os.environ.get("JOB_ID") or ""
    return number, job, socket.gethostname()


class Cluster:
    """Compute nodes reach the login node, each other and (while their wall is open) the broker."""

    def __init__(self, account: Account):
        # not in pytest's folder: other accounts must be able to look in
        self.folder = Path(tempfile.mkdtemp(prefix="umbel-e2e-", dir="/var/tmp"))
        self.folder.chmod(0o755)
        self.account = account
        self.network = network = Network(self.folder)
        # a file system of its own, that a test may fill; mounted before the nodes get their view of the files
        self.scratch = account.home / "scratch"
        self.scratch.mkdir()
        self._mount("-t", "tmpfs", "-o", "size=4m", "tmpfs", str(self.scratch))
        os.chown(self.scratch, account.uid, account.gid)
        nodes = {name: (network.address(name), name, network.wrap(name)) for name in COMPUTE}
        login = network.wrap("login")
        controller = f"login({network.address('login')})"
        self.slurm = Slurm(self.folder / "slurm", nodes, controller=controller, wrap=login)
        # commands of the site come first: tests put things in their way there
        (self.folder / "bin").mkdir()
        path = f"{self.folder}/bin:/usr/local/bin:/usr/bin:/bin"
        self.login = self._sshd("login", f"SetEnv SLURM_CONF={self.slurm.conf} PATH={path}")

    def _sshd(self, name: str, environ: str) -> Sshd:
        network = self.network
        return Sshd(
            self.folder / f"sshd-{name}",
            self.account,
            address=network.address("login"),
            environ=environ,
            wrap=network.wrap("login"),
        )

    @cached_property
    def gridengine(self) -> GridEngine:
        """Started when a test first asks for it."""
        need("sge_qmaster", "sge_execd", "qsub")
        return GridEngine(self.folder / "gridengine", self.network)

    @cached_property
    def gridengine_login(self) -> Sshd:
        """The login node as one sees it whose batch system is GridEngine."""
        variables = " ".join(f"{name}={value}" for name, value in self.gridengine.variables.items())
        return self._sshd("gridengine", f"SetEnv {variables}")

    @staticmethod
    def _mount(*words: str) -> None:
        subprocess.run(["mount", *words], check=True, capture_output=True, timeout=20)

    def resize_scratch(self, size: str) -> None:
        """Make the scratch file system larger or smaller (``4m``)."""
        self._mount("-o", f"remount,size={size}", str(self.scratch))

    def heal(self) -> None:
        """Undo whatever a test has broken."""
        for file in (self.folder / "bin").iterdir():
            file.unlink()
        for name in COMPUTE:
            self.network.link(name, "up")
        self.network.wall("login", closed=False)
        if not self.login.running:
            self.login.start()
        self.slurm.heal()
        if "gridengine" in self.__dict__:
            self.gridengine.limit_jobs(0)

    def assert_clean(self) -> None:
        """Nothing of any test is in a queue or on a node."""
        assert self.slurm.jobs() == []
        assert "gridengine" not in self.__dict__ or self.gridengine.jobs() == []
        self.account.wait_idle()

    def close(self) -> None:
        """End and delete everything."""
        if "gridengine_login" in self.__dict__:
            self.gridengine_login.stop()
        if "gridengine" in self.__dict__:
            self.gridengine.stop()
        self.login.stop()
        self.slurm.stop()
        self.network.close()
        subprocess.run(["umount", "--lazy", str(self.scratch)], check=True, capture_output=True, timeout=20)
        shutil.rmtree(self.folder, ignore_errors=True)


class Endpoint:
    """One elastic endpoint on the cluster, for one test."""

    def __init__(self, service: Elastic, cluster: Cluster, name: str):
        self.service, self.cluster, self.name = service, cluster, name
        self.added = False

    def add(
        self, *, kind: str = "slurm", site: dict[str, Any] | None = None, **policy: Any
    ) -> dict[str, Any]:
        """Make it, with one command, and install the key that it prints."""
        login = self.cluster.login if kind == "slurm" else self.cluster.gridengine_login
        settings = {"address": login.url, "scheduler": kind, "network": "direct", "interval": 2.0}
        made = self.service.add(self.name, {**settings, **(site or {})}, {**POLICY, **policy})
        self.added = True
        self.cluster.account.allow(made["authorized_keys"])
        return made

    def run(self, calls: int, seconds: float = 0.1, timeout: float = 180.0) -> tuple[set[str], set[str]]:
        """Run calls there and check their results; return the jobs and the nodes that ran them."""
        with self.service.umbel.executor(self.name) as executor:
            futures = [executor.submit(work, number, seconds) for number in range(calls)]
            results = [future.result(timeout=timeout) for future in futures]
        assert [number for number, _, _ in results] == list(range(calls))
        return {job for _, job, _ in results}, {node for _, _, node in results}

    @property
    def blocks(self) -> list[dict[str, Any]]:
        """Its blocks, ended ones too."""
        return list(self.service.look(self.name)["blocks"])

    @property
    def active(self) -> list[dict[str, Any]]:
        """Its blocks that have not ended."""
        return self.service.active(self.name)

    def wait_gone(self, timeout: float = 120.0) -> None:
        """Wait until no block is left."""
        self.service.wait_gone(self.name, timeout)

    def wait_status(self, status: str, timeout: float = 120.0) -> dict[str, Any]:
        """Wait for a status."""
        return self.service.wait_status(self.name, status, timeout)

    def remove(self) -> None:
        """Take it from the site; nothing of it is left there."""
        if not self.added:
            return
        self.service.remove(self.name)
        wait_until(lambda: not (self.cluster.account.home / ".umbel/endpoints" / self.name).exists(), 5.0)
