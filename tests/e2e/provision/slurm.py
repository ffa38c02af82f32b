"""A real Slurm with its own munge, on this machine: several nodes on loopback, or in network namespaces."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import psutil

from tests.support.embedded import free_port
from tests.support.wait import wait_until

CONF = """\
ClusterName=e2e
SlurmctldHost={controller}
SlurmctldPort={port}
SlurmdPort={slurmd_port}
SlurmUser=slurm
AuthType=auth/munge
AuthInfo=socket={folder}/munge/run/munge.socket
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0,sched_min_interval=100000
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
MailProg=/bin/true
KillWait=5
MinJobAge=300
SlurmctldTimeout=120
SlurmdTimeout=60
SlurmdParameters=config_overrides
PropagateResourceLimits=NONE
{nodes}
PartitionName=debug Nodes={names} Default=YES MaxTime=INFINITE State=UP
"""


class Slurm:
    """``nodes``: name → (address, host name, words to run something there)."""

    def __init__(
        self,
        folder: Path,
        nodes: dict[str, tuple[str, str, Sequence[str]]],
        *,
        controller: str = "",
        wrap: Sequence[str] = (),
    ):
        self.folder = folder
        self._nodes, self._wrap = nodes, list(wrap)
        for name in ("run", "spool"):
            (folder / name).mkdir(parents=True)
        for name in ("state", "log"):
            (folder / name).mkdir()
            shutil.chown(folder / name, "slurm", "slurm")
        self._start_munge()
        ports = {name: free_port() for name in nodes}
        shared = free_port()
        lines = [
            f"NodeName={name} NodeHostname={host} NodeAddr={address} Port={ports[name]} CPUs=4"
            for name, (address, host, _) in nodes.items()
        ]
        self.conf = folder / "slurm.conf"
        self.conf.write_text(
            CONF.format(
                controller=controller or f"{socket.gethostname()}(127.0.0.1)",
                port=free_port(),
                slurmd_port=shared,
                folder=folder,
                nodes="\n".join(lines),
                names=",".join(nodes),
            )
        )
        self.environ = {**os.environ, "SLURM_CONF": str(self.conf)}
        self.start_controller()
        for name in nodes:
            self.start_node(name)
        wait_until(lambda: self.call("sinfo", "-h", "-o", "%t").split() == ["idle"], 30.0, what="idle nodes")

    def _start_munge(self) -> None:
        munge = self.folder / "munge"
        for name, mode in (("lib", 0o700), ("log", 0o700), ("etc", 0o700), ("run", 0o755)):
            (munge / name).mkdir(parents=True)
            (munge / name).chmod(mode)
        (munge / "etc/key").write_bytes(os.urandom(1024))
        (munge / "etc/key").chmod(0o400)
        for path in (munge, *munge.iterdir(), munge / "etc/key"):
            shutil.chown(path, "munge", "munge")
        words = ["setpriv", "--reuid=munge", "--regid=munge", "--clear-groups", "munged"]
        words += [f"--key-file={munge}/etc/key", f"--socket={munge}/run/munge.socket"]
        words += [f"--pid-file={munge}/run/munged.pid", f"--log-file={munge}/log/munged.log"]
        subprocess.run([*words, f"--seed-file={munge}/lib/seed"], check=True)

    def start_controller(self) -> None:
        """Start slurmctld."""
        subprocess.run([*self._wrap, "slurmctld", "-f", str(self.conf)], env=self.environ, check=True)

    def stop_controller(self) -> None:
        """End slurmctld; jobs go on."""
        _end(self.folder / "run/slurmctld.pid")

    def start_node(self, name: str) -> None:
        """Start a node's slurmd."""
        words = [*self._nodes[name][2], "slurmd", "-f", str(self.conf), "-N", name]
        subprocess.run(words, env=self.environ, check=True)

    def call(self, *words: str) -> str:
        """Run a Slurm command as root; return its output, also when it fails."""
        command = [*self._wrap, *words]
        return subprocess.run(command, env=self.environ, capture_output=True, text=True, timeout=60).stdout

    def jobs(self) -> list[str]:
        """States of all jobs that have not ended."""
        return self.call("squeue", "-h", "-o", "%T").split()

    def stop(self) -> None:
        """End everything: nodes, controller, munge last."""
        self.call("scancel", "--state=RUNNING")
        self.call("scancel", "--state=PENDING")
        for name in self._nodes:
            _end(self.folder / f"run/slurmd.{name}.pid")
        self.stop_controller()
        _end(self.folder / "munge/run/munged.pid")


def _end(pid_file: Path) -> None:
    try:
        process = psutil.Process(int(pid_file.read_text()))
    except (OSError, ValueError, psutil.NoSuchProcess):
        return
    process.send_signal(signal.SIGTERM)
    ended = partial(_ended, process)
    try:
        wait_until(ended, 10.0)
    except AssertionError:
        process.kill()


def _ended(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
