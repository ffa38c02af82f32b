"""W9: the systems on a real Slurm, one after another, each on a new cluster."""

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
#: Programs that must be installed.
PROGRAMS = ("slurmctld", "slurmd", "munged", "sshd", "ip")
COMMANDS = ("sbatch", "squeue", "sacct", "scontrol", "scancel", "sinfo")
PEERS = {
    "parsl": ("parsl_slurm.py", "parsl==2026.10.26"),
    "dask-jobqueue": ("dask_slurm.py", "dask-jobqueue==0.9.0"),
}


class Site:
    """The cluster, with a log of all scheduler commands of the site's account."""

    def __init__(self, cluster: Cluster):
        self.cluster = cluster
        self._log = cluster.account.home / "commands"
        for name in COMMANDS:
            file = cluster.folder / "bin" / name
            file.write_text(f'#!/bin/sh\necho {name} >> {self._log}\nexec /usr/bin/{name} "$@"\n')
            file.chmod(0o755)

    def commands(self) -> list[str]:
        """Return the names of all commands so far."""
        return self._log.read_text().split() if self._log.exists() else []

    def node_seconds(self, before: set[str]) -> float:
        """Return the total run time of all jobs except those in ``before``, seconds."""
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
        """Return id and run time of all jobs that Slurm lists."""
        return self.cluster.slurm.call("squeue", "-h", "-t", "all", "-o", "%i|%M").split()

    def ids(self) -> set[str]:
        """Return the ids of these jobs."""
        return {line.split("|")[0] for line in self.jobs()}


class Recorder:
    """Records the events of a system, in the order of the works, with measurements of the site."""

    def __init__(self, site: Site, name: str):
        self.site, self.name = site, name
        self.record: dict[str, Any] = {"first": []}
        self._before: set[str] = set()
        self._counted = 0

    def record_event(self, work: str, seconds: float = 0.0) -> None:
        """Record one event."""
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


def umbel(site: Site, recorder: Recorder, folder: Path, rounds: int) -> None:
    """Measure Umbel: the peers' limits, otherwise defaults (at most one status command per 30 s)."""
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
                    recorder.record_event("first", time.monotonic() - began)
                    hpc.wait_gone(300.0)
                recorder.record_event("mark")
                began = time.monotonic()
                done = [future.result(timeout=400) for future in [once(SECONDS) for _ in range(CALLS)]]
                assert done == [SECONDS] * CALLS
                recorder.record_event("burst", time.monotonic() - began)
                wait_until(lambda: not site.cluster.slurm.jobs(), 300.0, what="an empty queue", interval=0.5)
                recorder.record_event("gone")
            hpc.remove()
            many = Endpoint(service, site.cluster, "many")
            limits = {"max_blocks": MANY, "min_blocks": MANY, "max_pending": MANY, "submit_burst": MANY}
            many.add(site={"interval": 30.0}, **{**rules, **limits})
            wait_until(
                lambda: len(site.cluster.slurm.jobs()) == MANY, 300.0, what=f"{MANY} jobs", interval=0.5
            )
            recorder.record_event("many")
            many.remove()
            recorder.record_event("end")
    finally:
        redis.process.terminate()
        redis.wait()


def peer(site: Site, recorder: Recorder, script: str, requirement: str, rounds: int) -> None:
    """Measure a peer: run its script as the site's account on the login node."""
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
                event = json.loads(line)
                recorder.record_event(**event)
                if event["work"] == "many":
                    process.stdin.write("on\n")
                    process.stdin.flush()
    if "commands" not in recorder.record:
        raise RuntimeError(f"{script} ended before the last event:\n{(home / 'output').read_text()[-3000:]}")


def _environment(requirement: str) -> str:
    """Return a Python with this requirement, in an environment that every account can read."""
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
    """Return why W9 cannot be measured on this machine, or ""."""
    path = f"{os.environ['PATH']}:/usr/sbin"
    absent = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if os.geteuid() != 0:
        return "needs root, to create an account and network namespaces"
    return f"not installed: {', '.join(absent)}" if absent else ""


def measure(names: Sequence[str], rounds: int) -> Iterator[dict[str, Any]]:
    """Yield the records of each system: one per first result; the first has all other values."""
    for name in names:
        try:
            yield from _measure(name, rounds)
        except (RuntimeError, OSError, AssertionError, TimeoutError, subprocess.SubprocessError) as error:
            reason = f"{type(error).__name__}: {error}"
            yield {"peer": name, "work": "error", "round": 1, "error": f"W9: {reason[:500]}"}


def _measure(name: str, rounds: int) -> Iterator[dict[str, Any]]:
    # measured before, because the daemons of the cluster are not children of this process
    others = round(psutil.cpu_percent(3.0) / 100.0, 3)
    with _site() as site:
        recorder = Recorder(site, name)
        if name == "umbel":
            with tempfile.TemporaryDirectory(prefix="umbel-bench-") as folder:
                umbel(site, recorder, Path(folder), rounds)
        else:
            peer(site, recorder, *PEERS[name], rounds)
    for number, seconds in enumerate(recorder.record.pop("first"), 1):
        record = {"peer": name, "work": "W9", "round": number, "n": 1, "others": others, "first_s": seconds}
        yield {**record, **(recorder.record if number == 1 else {})}
