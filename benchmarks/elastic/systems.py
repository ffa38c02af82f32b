"""W9: the systems on a real Slurm, one after another, each on a cluster of its own."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from tests.e2e.provision.cluster import Cluster, Endpoint
from tests.e2e.provision.elastic import broker, elastic
from tests.e2e.provision.machines import Account
from tests.e2e.provision.network import BROKER
from tests.support.embedded import free_port
from tests.support.wait import wait_until

from .work import BLOCKS, CALLS, IDLE, MANY, SECONDS, SLOTS, WATCHED, nap

HERE = Path(__file__).parent
#: What a machine must have for it.
PROGRAMS = ("slurmctld", "slurmd", "munged", "sshd", "ip")
COMMANDS = ("sbatch", "squeue", "sacct", "scontrol", "scancel", "sinfo")
PEERS = {
    "parsl": ("parsl_slurm.py", "parsl==2026.10.26"),
    "dask-jobqueue": ("dask_slurm.py", "dask-jobqueue==0.9.0"),
}


class Site:
    """The cluster with a note of every scheduler command that the site's account gives."""

    def __init__(self, cluster: Cluster):
        self.cluster = cluster
        self._log = cluster.account.home / "commands"
        for name in COMMANDS:
            file = cluster.folder / "bin" / name
            file.write_text(f'#!/bin/sh\necho {name} >> {self._log}\nexec /usr/bin/{name} "$@"\n')
            file.chmod(0o755)

    def commands(self) -> list[str]:
        """Names of all commands so far."""
        return self._log.read_text().split() if self._log.exists() else []

    def node_seconds(self, before: set[str]) -> float:
        """How long all jobs but those of ``before`` have run."""
        total = 0.0
        for line in self.jobs():
            id, ran = line.split("|")
            days, _, clock = ran.rpartition("-")
            seconds = 0
            for part in clock.split(":"):
                seconds = 60 * seconds + int(part)
            total += 0 if id in before else seconds + 86400 * int(days or 0)
        return total

    def jobs(self) -> list[str]:
        """All jobs that Slurm still tells of: number and run time."""
        return self.cluster.slurm.call("squeue", "-h", "-t", "all", "-o", "%i|%M").split()

    def ids(self) -> set[str]:
        """Numbers of those jobs."""
        return {line.split("|")[0] for line in self.jobs()}


class Watch:
    """Takes what a system says, in the order of the works, and adds what the site shows."""

    def __init__(self, site: Site, name: str):
        self.site, self.name = site, name
        self.record: dict[str, Any] = {"first": []}
        self._before: set[str] = set()
        self._counted = 0

    def hear(self, work: str, seconds: float = 0.0) -> None:
        """One thing that was said."""
        print(f"{time.strftime('%H:%M:%S')} {self.name}: {work} {seconds:.2f}", file=sys.stderr, flush=True)
        if work == "first":
            self.record["first"].append(round(seconds, 2))
        elif work == "mark":
            self._before, self._counted = self.site.ids(), len(self.site.commands())
        elif work == "burst":
            self.record["burst_s"] = round(seconds, 2)
        elif work == "gone":
            ideal = CALLS * SECONDS / SLOTS
            self.record["extra_node_seconds"] = round(self.site.node_seconds(self._before) - ideal, 1)
            self.record["burst_commands"] = len(self.site.commands()) - self._counted
        elif work == "many":
            began = len(self.site.commands())
            time.sleep(WATCHED)
            self.record["per_minute"] = round((len(self.site.commands()) - began) * 60 / WATCHED, 1)
        elif work == "end":
            self.record["commands"] = len(self.site.commands())


def umbel(site: Site, watch: Watch, folder: Path, rounds: int) -> None:
    """Measure Umbel: rules as for the peers, all else as it comes (a status command every 30 s at most)."""
    redis, environ = broker(folder / "broker", BROKER, free_port())
    try:
        with elastic(folder, **environ) as service:
            hpc = Endpoint(service, site.cluster, "few")
            rules = {"slots_per_node": SLOTS, "idle_time": IDLE, "walltime": 1800, "grace": 120}
            hpc.add(site={"interval": 30.0}, max_blocks=BLOCKS, **rules)
            hpc.wait_status("ok", 300.0)
            with service.umbel.executor("few") as executor:

                def once(seconds: float) -> Future[float]:
                    return executor.submit(nap, seconds)

                for _ in range(rounds):
                    began = time.monotonic()
                    assert once(0.0).result(timeout=200) == 0.0
                    watch.hear("first", time.monotonic() - began)
                    hpc.wait_gone(300.0)
                watch.hear("mark")
                began = time.monotonic()
                done = [future.result(timeout=400) for future in [once(SECONDS) for _ in range(CALLS)]]
                assert done == [SECONDS] * CALLS
                watch.hear("burst", time.monotonic() - began)
                wait_until(lambda: not site.cluster.slurm.jobs(), 300.0, what="an empty queue", interval=0.5)
                watch.hear("gone")
            hpc.remove()
            many = Endpoint(service, site.cluster, "many")
            limits = {"max_blocks": MANY, "min_blocks": MANY, "max_pending": MANY, "submit_burst": MANY}
            many.add(site={"interval": 30.0}, **{**rules, **limits})
            wait_until(
                lambda: len(site.cluster.slurm.jobs()) == MANY, 300.0, what=f"{MANY} jobs", interval=0.5
            )
            watch.hear("many")
            many.remove()
            watch.hear("end")
    finally:
        redis.process.terminate()
        redis.wait()


def peer(site: Site, watch: Watch, script: str, requirement: str, rounds: int) -> None:
    """Measure a peer: its script runs as the site's account on the login node."""
    python = _environment(requirement)
    account, network = site.cluster.account, site.cluster.network
    home = account.home / Path(script).stem
    account.run(f"mkdir -p {home}")
    for file in (script, "work.py"):
        shutil.copy(HERE / file, home / file)
        shutil.chown(home / file, account.name)
    words = [*network.wrap("login"), "setpriv", f"--reuid={account.uid}", f"--regid={account.gid}"]
    words += ["--clear-groups", python, str(home / script), network.address("login"), str(rounds)]
    environ = {
        "HOME": str(account.home),
        "USER": account.name,
        "LOGNAME": account.name,
        "PATH": f"{site.cluster.folder}/bin:{Path(python).parent}:/usr/bin:/bin",
        "SLURM_CONF": str(site.cluster.slurm.conf),
    }
    with (
        (home / "output").open("w") as errors,
        subprocess.Popen(
            [*words, str(home / "run")],
            env=environ,
            cwd=home,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        assert process.stdin is not None and process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                said = json.loads(line)
                watch.hear(**said)
                if said["work"] == "many":
                    process.stdin.write("on\n")
                    process.stdin.flush()
    if "commands" not in watch.record:
        raise RuntimeError(f"{script} ended early:\n{(home / 'output').read_text()[-3000:]}")


def _environment(requirement: str) -> str:
    """A Python with this, made once by the system's Python where every account can read it."""
    key = hashlib.sha256(requirement.encode()).hexdigest()[:10]
    folder = Path("/var/tmp") / f"umbel-bench-{key}"
    python = folder / "bin/python"
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run(["/usr/bin/python3", "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", requirement], check=True)
        (folder / "complete").touch()
    return str(python)


@contextmanager
def _site() -> Iterator[Site]:
    account = Account("bench")
    try:
        cluster = Cluster(account)
        try:
            yield Site(cluster)
        finally:
            cluster.close()
    finally:
        account.remove()


def missing() -> str:
    """Why this cannot be measured here, or ""."""
    path = f"{os.environ['PATH']}:/usr/sbin"
    absent = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if os.geteuid() != 0:
        return "it wants root: it makes an account and network namespaces"
    return f"not installed: {', '.join(absent)}" if absent else ""


def measure(names: Sequence[str], rounds: int) -> Iterator[dict[str, Any]]:
    """Yield the records of each system: one for each first result, the first of them with all else."""
    for name in names:
        try:
            yield from _measure(name, rounds)
        except (RuntimeError, OSError, AssertionError, TimeoutError, subprocess.SubprocessError) as error:
            said = f"{type(error).__name__}: {error}"
            yield {"peer": name, "work": "error", "round": 1, "error": f"W9: {said[:500]}"}


def _measure(name: str, rounds: int) -> Iterator[dict[str, Any]]:
    # what else runs is looked at before: the cluster's daemons are nobody's children
    others = round(psutil.cpu_percent(3.0) / 100.0, 3)
    with _site() as site:
        watch = Watch(site, name)
        if name == "umbel":
            with tempfile.TemporaryDirectory(prefix="umbel-bench-") as folder:
                umbel(site, watch, Path(folder), rounds)
        else:
            peer(site, watch, *PEERS[name], rounds)
    for number, seconds in enumerate(watch.record.pop("first"), 1):
        record = {"peer": name, "work": "W9", "round": number, "n": 1, "others": others, "first_s": seconds}
        yield {**record, **(watch.record if number == 1 else {})}
