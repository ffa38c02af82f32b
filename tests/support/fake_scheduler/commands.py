"""The commands of the simulated batch systems: ``commands.py KIND COMMAND ARGUMENT...``."""

from __future__ import annotations

import fcntl
import json
import os
import re
import sys
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

FOLDER = Path(os.environ["FAKE_CLUSTER"])
MODE = (FOLDER / "mode").read_text()
ENDED = ("completed", "failed", "timeout", "cancelled", "preempted", "node_fail", "out_of_memory")

DOWN = {
    "slurm": "slurm_load_jobs error: Unable to contact slurm controller (connect failure)",
    "gridengine": "error: commlib error: got select error (Connection refused)\nunable to contact qmaster",
    "pbs": "Connection refused\nqstat: cannot connect to server pbs (errno=111)",
    "lsf": "Failed in an LSF library call: LIM is down; try later: batch system not responding, please wait",
    "htcondor": "Error: Failed to connect to local queue manager\nCEDAR:6001:Failed to connect (Connection refused)",  # noqa: E501
}
LIMIT = {
    "slurm": "sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: Batch job submission failed: Job violates "  # noqa: E501
    "accounting/QOS policy (job submit limit, user's size and/or time limits)",
    "gridengine": "Unable to run job: job rejected: only 2 jobs are allowed per user (current job count: 2)",  # noqa: E501
    "pbs": "qsub: would exceed queue generic's per-user limit",
    "lsf": "Pending job threshold reached: User's job limit reached. Job not submitted.",
    "htcondor": "ERROR: Failed to create proc: Number of submitted jobs would exceed MAX_JOBS_PER_OWNER",
}
REFUSE = {
    "slurm": "sbatch: error: invalid partition specified: nosuch\nsbatch: error: Batch job submission failed: "  # noqa: E501
    "Invalid partition name specified",
    "gridengine": 'Unable to run job: unknown resource "nosuch".\nExiting.',
    "pbs": "qsub: Unknown queue",
    "lsf": "nosuch: No such queue. Job not submitted.",
    "htcondor": "ERROR: on Line 7 of submit file: unknown command",
}
SLURM = {"pending": "PENDING", "running": "RUNNING", "held": "PENDING", "cancelled": "CANCELLED by 1000"}
PBS = {"pending": "Q", "running": "R", "held": "H"}
LSF = {"pending": "PEND", "running": "RUN", "held": "PSUSP", "completed": "DONE"}
CONDOR = {"pending": 1, "running": 2, "cancelled": 3, "completed": 4, "failed": 4, "held": 5}
GE = {"pending": "qw", "running": "r", "held": "hqw"}


def main(kind: str, command: str, arguments: list[str]) -> int:
    """Be one command."""
    if MODE == "down":
        print(DOWN[kind], file=sys.stderr)
        return 1
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        jobs: list[dict[str, Any]] = json.loads((FOLDER / "jobs.json").read_text())
        if command in ("sbatch", "qsub", "bsub", "condor_submit"):
            code = submit(kind, jobs, sys.stdin.read())
        elif command in ("scancel", "qdel", "bkill", "condor_rm"):
            code = cancel(kind, jobs, arguments)
        elif MODE == "garbage":
            print("<html>Please log in|again</html>")
            return 0
        else:
            code = globals()[f"{kind}_{command}"](jobs, arguments)
        (FOLDER / "jobs.json").write_text(json.dumps(jobs))
    return code


def submit(kind: str, jobs: list[dict[str, Any]], text: str) -> int:
    """Take a job, or not."""
    for mode, words in (("limit", LIMIT), ("refuse", REFUSE)):
        if mode == MODE:
            print(words[kind], file=sys.stderr)
            return 1
    pattern = r"(?:--job-name=|-N |-J |UmbelBlock = \")(umbel-[0-9a-f-]+)"
    found = re.search(pattern, text)
    if not found or not (text.startswith("#!/bin/sh\n") or kind == "htcondor"):
        print("this is no job script", file=sys.stderr)
        return 1
    id = str(101 + len(jobs))
    id = f"{id}.pbs.example" if kind == "pbs" else id
    jobs.append(
        {"id": id, "name": found[1], "state": "pending", "reason": "", "host": "", "code": 0, "text": text}
    )
    if MODE == "lost answer":
        print("Socket timed out on send/recv operation", file=sys.stderr)
        return 1
    answers = {
        "slurm": f"{id};testc",
        "gridengine": id,
        "pbs": id,
        "lsf": f"Job <{id}> is submitted to default queue <normal>.",
        "htcondor": f"{id}.0 - {id}.0",
    }
    print(answers[kind])
    return 0


def cancel(kind: str, jobs: list[dict[str, Any]], ids: list[str]) -> int:
    """End jobs; tell of those that are not there as the real ones do."""
    code = 0
    for id in ids:
        job = next((job for job in jobs if job["id"] == id and not job.get("purged")), None)
        if job is None or job["state"] in ENDED:
            words = {
                "slurm": f"scancel: error: Kill job error on job id {id}: Invalid job id specified",
                "gridengine": f'denied: job "{id}" does not exist',
                "pbs": f"qdel: Unknown Job Id {id}",
                "lsf": f"Job <{id}>: Job has already finished",
                "htcondor": f"Couldn't find/remove all jobs in cluster {id}",
            }
            print(words[kind], file=sys.stderr)
            code = 1
        else:
            job.update(state="cancelled", code=143)
    return code


def slurm_squeue(jobs: list[dict[str, Any]], arguments: list[str]) -> int:
    """All jobs, those of others among them."""
    for job in jobs:
        if not job.get("purged"):
            word = SLURM.get(job["state"], job["state"].upper())
            reason = "JobHeldUser" if job["state"] == "held" else job["reason"] or "None"
            print(f"{job['id']}|{word}|1:05|{job['host']}|{job['name']}|{reason}")
    return 0


def slurm_sacct(jobs: list[dict[str, Any]], arguments: list[str]) -> int:
    """Accounts, if the site keeps them."""
    if (FOLDER / "no accounting").exists():
        print("Slurm accounting storage is disabled", file=sys.stderr)
        return 1
    ids = arguments[-1].partition("=")[2].split(",")
    for job in jobs:
        if job["id"] in ids and job["state"] in ENDED:
            print(
                f"{job['id']}|{SLURM.get(job['state'], job['state'].upper())}|{job['host']}|65|{job['name']}"
            )
    return 0


def gridengine_qstat(jobs: list[dict[str, Any]], arguments: list[str]) -> int:
    """Active jobs as XML."""
    print("<?xml version='1.0'?>\n<job_info xmlns:xsd=\"http://x/qstat.xsd\"><queue_info>")
    for job in jobs:
        if job["state"] not in ENDED and not job.get("purged"):
            queue = (
                f"<queue_name>all.q@{job['host']}</queue_name>"
                if job["host"]
                else "<queue_name></queue_name>"
            )
            print(
                f'<job_list state="x"><JB_job_number>{job["id"]}</JB_job_number><JB_name>{escape(job["name"])}'  # noqa: E501
                f"</JB_name><state>{GE[job['state']]}</state>{queue}</job_list>"
            )
    print("</queue_info></job_info>")
    return 0


def gridengine_qacct(jobs: list[dict[str, Any]], arguments: list[str]) -> int:
    """One job's accounts."""
    job = next(
        (j for j in jobs if j["id"] == arguments[-1] and j["state"] in ENDED and not j.get("purged")), None
    )
    if job is None:
        print(f"error: job id {arguments[-1]} not found", file=sys.stderr)
        return 1
    failed = {"cancelled": "100 : assumedly after job", "timeout": "37 : qmaster enforced h_rt limit"}
    code = job["code"] if job["state"] != "cancelled" else 137
    print("=" * 62)
    print(f"qname        all.q\nhostname     {job['host']}\njobname      {job['name']}")
    print(f"failed       {failed.get(job['state'], '0')}\nexit_status  {code}\nru_wallclock 65s")
    return 0


def pbs_qselect(jobs: list[dict[str, Any]], arguments: list[str]) -> int:
    """Ids of active jobs."""
    print("".join(job["id"] + "\n" for job in jobs if job["state"] not in ENDED), end="")
    return 0


def pbs_qstat(jobs: list[dict[str, Any]], arguments: list[str]) -> int:
    """Jobs as text, with what breaks naive readers."""
    code = 0
    for id in [argument for argument in arguments if not argument.startswith("-")]:
        job = next((job for job in jobs if job["id"] == id and not job.get("purged")), None)
        if job is None:
            print(f"qstat: Unknown Job Id {id}", file=sys.stderr)
            code = 153
            continue
        print(f"Job Id: {id}\n    Job_Name = {job['name']}\n    Job_Owner = u@login")
        print(f"    job_state = {PBS.get(job['state'], 'F')}")
        if job["host"]:
            print(
                f"    exec_host = {job['host']}/0*2+{job['host']}/1\n    resources_used.walltime = 00:01:05"
            )
        if job["state"] in ENDED:
            print(f"    Exit_status = {271 if job['state'] == 'cancelled' else job['code']}")
        print('    Variable_List = PBS_O_HOME=/home/u,NUMBER=005,\n\tODD=a \\ b "c",PBS_O_LANG=C')
        print(f"    comment = {job['reason'] or 'none'}\n")
    return code


def lsf_bjobs(jobs: list[dict[str, Any]], arguments: list[str]) -> int:
    """All jobs with separators; without any, a complaint."""
    shown = [job for job in jobs if not job.get("purged")]
    if not shown:
        print("No job found", file=sys.stderr)
        return 255
    exits = {
        "cancelled": "TERM_OWNER: job killed by owner",
        "timeout": "TERM_RUNLIMIT: job killed after limit",
    }
    for job in shown:
        host = f"2*{job['host']}:2*{job['host']}" if job["host"] else "-"
        reason = exits.get(job["state"], job["reason"] or "-")
        print(f"{job['id']}|{LSF.get(job['state'], 'EXIT')}|{host}|{job['name']}|{reason}")
    return 0


def htcondor_condor_q(jobs: list[dict[str, Any]], arguments: list[str]) -> int:
    """Jobs in the queue, tab separated."""
    for job in jobs:
        if job["state"] not in ENDED and not job.get("purged"):
            _classad(job)
    return 0


def htcondor_condor_history(jobs: list[dict[str, Any]], arguments: list[str]) -> int:
    """Jobs that have left the queue."""
    for job in jobs:
        if job["state"] in ENDED and not job.get("purged"):
            _classad(job)
    return 0


def _classad(job: dict[str, Any]) -> None:
    host = f"slot1@{job['host']}" if job["host"] else "undefined"
    code = job["code"] if job["state"] in ENDED else "undefined"
    words = [job["id"], CONDOR[job["state"]], job["name"], code, "false", host, job["reason"] or "undefined"]
    print("\t".join(map(str, words)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
