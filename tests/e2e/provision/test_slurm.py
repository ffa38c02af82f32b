"""Elastic endpoints on a real Slurm, and what happens when something breaks."""

from __future__ import annotations

import time

import pytest

from tests.support.wait import wait_until

from .elastic import Elastic
from .machines import Account, Sshd
from .slurm import Slurm

pytestmark = pytest.mark.timeout(300)
POLICY = {
    "max_blocks": 2,
    "slots_per_node": 2,
    "idle_time": 5,
    "walltime": 900,
    "slot_work": 1,
    "grace": 20,
    "drain_margin": 60,
}


def _where(number: int) -> tuple[int, str]:
    import os
    import time

    time.sleep(0.1)
    return number, os.environ.get("SLURM_JOB_ID", "")


def _add(service: Elastic, account: Account, login: Sshd, name: str = "hpc", **policy: object) -> None:
    site = {"address": login.url, "scheduler": "slurm", "network": "direct", "interval": 3.0}
    account.allow(service.add(name, site, {**POLICY, **policy})["authorized_keys"])


def _run(service: Elastic, calls: int, name: str = "hpc") -> set[str]:
    """Run calls there; return the jobs that ran them."""
    with service.umbel.executor(name) as executor:
        futures = [executor.submit(_where, number) for number in range(calls)]
        results = [future.result(timeout=150) for future in futures]
    assert [number for number, _ in results] == list(range(calls))
    return {job for _, job in results}


def test_blocks_come_with_the_queue_and_go_after_it(
    service: Elastic, account: Account, slurm: Slurm, slurm_login: Sshd
) -> None:
    _add(service, account, slurm_login)
    wait_until(lambda: service.look("hpc")["status"] == "ok", 90.0, interval=0.5)
    assert service.look("hpc")["blocks"] == [] and slurm.jobs() == []
    began = time.monotonic()
    assert "" not in _run(service, 1)
    print(f"first result after {time.monotonic() - began:.2f} s on an empty cluster")
    jobs = _run(service, 400)
    assert len(jobs) == 2, "both blocks had work"
    service.wait_gone("hpc", 90.0)
    assert slurm.jobs() == []
    wait_until(lambda: not [p for p in account.processes() if "python" in p.name()], 20.0)
    blocks = service.look("hpc")["blocks"]
    assert {block["state"] for block in blocks} == {"completed"}
    assert len(blocks) <= 4 and all(block["hosts"] for block in blocks)


def test_a_killed_provisioner_adopts_what_runs_and_doubles_nothing(
    service: Elastic, account: Account, slurm: Slurm, slurm_login: Sshd
) -> None:
    _add(service, account, slurm_login, idle_time=30)
    _run(service, 1)
    before = {block["job_id"] for block in service.active("hpc")}
    service.kill()
    # as if killed between sbatch and its record: the job is there, its number is not known
    database = service.umbel.home / "ledger.sqlite"
    _sql(database, "UPDATE blocks SET job_id = NULL, state = 'submitting', joined = NULL WHERE ended IS NULL")
    service.start()
    wait_until(lambda: {b["job_id"] for b in service.active("hpc")} == before, 40.0, interval=0.5)
    assert len(slurm.jobs()) == len(before)
    assert _run(service, 20)
    assert len(service.look("hpc")["blocks"]) <= 2


def test_an_orphan_is_cancelled(service: Elastic, account: Account, slurm: Slurm, slurm_login: Sshd) -> None:
    _add(service, account, slurm_login, idle_time=30)
    _run(service, 1)
    (name,) = [block["name"] for block in service.active("hpc")]
    stranger = name[:-8] + "0badcafe"
    script = f"#!/bin/sh\\n#SBATCH --job-name={stranger}\\nsleep 300\\n"
    command = f"printf '{script}' | SLURM_CONF={slurm.conf} sbatch --output=/dev/null"
    account.run(command)
    assert len(slurm.jobs()) == 2
    wait_until(lambda: len(slurm.jobs()) == 1, 40.0, what="the end of the orphan", interval=0.5)
    assert "belong to no block" in service.log


def test_a_job_that_the_admin_cancels_costs_no_call(
    service: Elastic, account: Account, slurm: Slurm, slurm_login: Sshd
) -> None:
    _add(service, account, slurm_login)
    with service.umbel.executor("hpc") as executor:
        futures = [executor.submit(_where, number) for number in range(200)]
        futures[0].result(timeout=120)
        slurm.call("scancel", service.active("hpc")[0]["job_id"])
        assert [future.result(timeout=150)[0] for future in futures] == list(range(200))
    service.wait_gone("hpc", 90.0)
    assert slurm.jobs() == [] and service.look("hpc")["status"] == "ok"


def test_a_site_that_is_away_is_frozen_and_heals(
    service: Elastic, account: Account, slurm: Slurm, slurm_login: Sshd
) -> None:
    _add(service, account, slurm_login, idle_time=60)
    _run(service, 1)
    slurm.stop_controller()
    slurm_login.stop()
    wait_until(lambda: service.look("hpc")["status"] == "unreachable", 60.0, interval=0.5)
    assert _run(service, 20), "the block works on while its site's login node is away"
    assert len(service.active("hpc")) == 1
    slurm_login.start()
    slurm.start_controller()
    wait_until(lambda: service.look("hpc")["status"] == "ok", 60.0, interval=0.5)
    assert len(service.look("hpc")["blocks"]) == 1 and len(slurm.jobs()) == 1


def _sql(file: object, statement: str) -> None:
    import sqlite3

    with sqlite3.connect(str(file), timeout=20) as connection:
        connection.execute(statement)
