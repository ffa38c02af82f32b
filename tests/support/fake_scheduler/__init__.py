"""A simulated batch system: the command lines of five systems over one file of jobs.

``FakeCluster`` makes a folder with the commands; the commands speak as the real ones do, with what is awkward
about them: banners, other people's jobs, names with separators in them, purged ids, servers that are down,
answers that get lost after the job was taken.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

COMMANDS = {
    "slurm": ["sbatch", "squeue", "scancel", "sacct"],
    "gridengine": ["qsub", "qstat", "qdel", "qacct"],
    "pbs": ["qsub", "qstat", "qdel", "qselect"],
    "lsf": ["bsub", "bjobs", "bkill"],
    "htcondor": ["condor_submit", "condor_q", "condor_rm", "condor_history"],
}


class FakeCluster:
    """A played cluster in ``folder``; ``kind`` says which commands it has."""

    def __init__(self, folder: Path, kind: str):
        self.folder = folder
        self.kind = kind
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        (folder / "jobs.json").write_text("[]")
        self.mode("")
        program = Path(__file__).with_name("commands.py")
        for name in COMMANDS[kind]:
            command = self.bin / name
            command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "{program}" {kind} {name} "$@"\n')
            command.chmod(command.stat().st_mode | stat.S_IXUSR)

    @property
    def environ(self) -> dict[str, str]:
        """What a shell needs to find it."""
        return {"PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}", "FAKE_CLUSTER": str(self.folder)}

    def mode(self, text: str) -> None:
        """How it behaves: "", "down", "lost answer", "limit", "refuse", "garbage"."""
        (self.folder / "mode").write_text(text)

    @property
    def jobs(self) -> list[dict[str, Any]]:
        """All its jobs, those of others too."""
        found: list[dict[str, Any]] = json.loads((self.folder / "jobs.json").read_text())
        return found

    def change(self, id: str, **values: Any) -> None:
        """Change a job: ``state``, ``reason``, ``host``, ``code``, ``purged``."""
        jobs = self.jobs
        next(job for job in jobs if job["id"] == id).update(values)
        (self.folder / "jobs.json").write_text(json.dumps(jobs))

    def add(self, **values: Any) -> None:
        """Add somebody else's job."""
        jobs = self.jobs
        jobs.append(
            {"id": str(900 + len(jobs)), "state": "running", "reason": "", "host": "cn9", "code": 0, **values}
        )
        (self.folder / "jobs.json").write_text(json.dumps(jobs))
