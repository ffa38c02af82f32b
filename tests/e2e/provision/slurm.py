"""A real Slurm with its own munge, in network namespaces of this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.support.embedded import free_port
from tests.support.wait import wait_until

from .processes import end

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
JobSubmitPlugins=throttle
MpiDefault=none
ReturnToService=2
MailProg=/bin/true
KillWait=5
MinJobAge=300
SlurmctldTimeout=120
SlurmdTimeout=20
SlurmdParameters=config_overrides
# else PMIx on one node would find what it has on the other: they share this machine's /tmp
TmpFS={folder}/tmp/%n
PropagateResourceLimits=NONE
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{nodes}
PartitionName=debug Nodes={names} Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=CANCEL
PartitionName=scavenge Nodes={names} MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE
PartitionName=urgent Nodes={names} MaxTime=INFINITE State=UP PriorityTier=9 PreemptMode=OFF
PartitionName=short Nodes={names} MaxTime=5 State=UP
EnforcePartLimits=ANY
"""


class Slurm:
    """``nodes``: name → (address, host name, words to run something there)."""

    def __init__(
        self,
        folder: Path,
        nodes: dict[str, tuple[str, str, Sequence[str]]],
        *,
        controller: str,
        wrap: Sequence[str],
    ):
        self.folder = folder
        self._nodes, self._wrap = nodes, list(wrap)
        for name in ("run", "spool"):
            (folder / name).mkdir(parents=True)
        for name in ("state", "log"):
            (folder / name).mkdir()
            shutil.chown(folder / name, "slurm", "slurm")
        for name in nodes:
            (folder / "tmp" / name).mkdir(parents=True)
            (folder / "tmp" / name).chmod(0o1777)
        self._start_munge()
        ports = {name: free_port() for name in nodes}
        lines = [
            f"NodeName={name} NodeHostname={host} NodeAddr={address} Port={ports[name]} CPUs=4"
            for name, (address, host, _) in nodes.items()
        ]
        self.conf = folder / "slurm.conf"
        self._text = CONF.format(
            controller=controller,
            port=free_port(),
            slurmd_port=free_port(),
            folder=folder,
            nodes="\n".join(lines),
            names=",".join(nodes),
        )
        self.conf.write_text(self._text)
        self.environ = {**os.environ, "SLURM_CONF": str(self.conf)}
        self.start_controller()
        for name in nodes:
            self.start_node(name)
        wait_until(
            lambda: set(self.call("sinfo", "-h", "-o", "%t").split()) == {"idle"},
            60.0,
            what="idle nodes",
            interval=0.1,
        )

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
        end(self.folder / "run/slurmctld.pid")
        (self.folder / "run/slurmctld.pid").unlink(missing_ok=True)

    def start_node(self, name: str) -> None:
        """Start a node's slurmd."""
        words = [*self._nodes[name][2], "slurmd", "-f", str(self.conf), "-N", name]
        subprocess.run(words, env=self.environ, check=True)

    def call(self, *words: str) -> str:
        """Run a Slurm command as root; return its output, also when it fails."""
        command = [*self._wrap, *words]
        return subprocess.run(command, env=self.environ, capture_output=True, text=True, timeout=60).stdout

    def change(self, old: str, new: str) -> None:
        """Change the configuration. The controller starts anew: some plugins read theirs once only."""
        text = self.conf.read_text()
        assert old in text
        self.conf.write_text(text.replace(old, new))
        self.stop_controller()
        self.start_controller()
        wait_until(lambda: "cn1" in self.call("sinfo", "-h", "-N"), 30.0, what="slurmctld", interval=0.2)

    @property
    def running(self) -> bool:
        """Whether slurmctld runs."""
        return (self.folder / "run/slurmctld.pid").exists()

    def heal(self) -> None:
        """Start what is down and take back what an admin did to nodes and configuration."""
        if self.conf.read_text() != self._text:
            self.conf.write_text(self._text)
            self.stop_controller()
        if not self.running:
            self.start_controller()
        for name in self._nodes:
            self.call("scontrol", "update", f"nodename={name}", "state=resume")
        wait_until(self._healthy, 90.0, what="nodes that answer", interval=0.3)

    def _healthy(self) -> bool:
        states = self.call("sinfo", "-h", "-N", "-o", "%T").split()
        return bool(states) and all(state in ("idle", "mixed", "allocated", "completing") for state in states)

    def jobs(self) -> list[str]:
        """States of all jobs that have not ended."""
        return self.call("squeue", "-h", "-o", "%T").split()

    def stop(self) -> None:
        """End everything: nodes, controller, munge last."""
        self.call("scancel", "--state=RUNNING")
        self.call("scancel", "--state=PENDING")
        for name in self._nodes:
            end(self.folder / f"run/slurmd.{name}.pid")
        self.stop_controller()
        end(self.folder / "munge/run/munged.pid")
