"""What breaks on real sites: each fault heals without a lost call, a doubled block or a forgotten job."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import scripts
from tests.support.wait import wait_until

from .cluster import Cluster, Endpoint, work
from .elastic import Elastic

pytestmark = pytest.mark.timeout(400)


def _slow_once(marker: str, seconds: float) -> str:
    """Take long the first time, be quick the second."""
    import os
    import time

    if not os.path.exists(marker):
        open(marker, "w").close()
        time.sleep(seconds)
    return os.environ["SLURM_JOB_ID"]


def _command(cluster: Cluster, name: str, script: str) -> None:
    """Put a script in the way of one of the site's commands."""
    scripts.write(cluster.folder / "bin" / name, script)


def test_provisioner_killed_between_sbatch_and_its_record(
    hpc: Endpoint, cluster: Cluster, service: Elastic
) -> None:
    hpc.add(max_blocks=1, idle_time=30)
    hpc.wait_status("ok")
    submitted, go = cluster.account.home / "submitted", cluster.account.home / "go"
    wait = f"while [ ! -e {go} ]; do sleep 0.1; done"
    _command(
        cluster, "sbatch", f'id=$(/usr/bin/sbatch "$@") && echo "$id" > {submitted} && {wait}; echo "$id"'
    )
    with service.umbel.executor(hpc.name) as executor:
        future = executor.submit(work, 1)
        wait_until(lambda: submitted.exists() and submitted.read_text().strip(), 60.0, what="sbatch")
        assert [block["state"] for block in hpc.active] == ["submitting"]
        service.kill()
        job = submitted.read_text().strip()
        assert future.result(timeout=120)[1] == job
        wait_until(lambda: [b["job_id"] for b in hpc.active] == [job], 60.0, what="adoption", interval=0.2)
    go.touch()
    assert hpc.run(20)[0] == {job}
    assert len(hpc.blocks) == 1 and len(cluster.slurm.jobs()) == 1


def test_an_orphan_is_cancelled(hpc: Endpoint, cluster: Cluster, service: Elastic) -> None:
    hpc.add(max_blocks=1, idle_time=60, grace=6)
    hpc.run(1)
    (name,) = [block["name"] for block in hpc.active]
    stranger = name[:-8] + "0badcafe"
    script = f"#!/bin/sh\\n#SBATCH --job-name={stranger}\\nsleep 300\\n"
    cluster.account.run(f"printf '{script}' | SLURM_CONF={cluster.slurm.conf} sbatch --output=/dev/null")
    assert len(cluster.slurm.jobs()) == 2
    wait_until(lambda: len(cluster.slurm.jobs()) == 1, 90.0, what="the end of the orphan", interval=0.2)
    assert "belong to no block" in service.log
    assert len(hpc.active) == 1


def test_job_cancelled_by_the_admin(hpc: Endpoint, cluster: Cluster, service: Elastic) -> None:
    hpc.add()
    with service.umbel.executor(hpc.name) as executor:
        futures = [executor.submit(work, number) for number in range(200)]
        futures[0].result(timeout=120)
        cluster.slurm.call("scancel", hpc.active[0]["job_id"])
        assert [future.result(timeout=180)[0] for future in futures] == list(range(200))
    hpc.wait_gone()
    assert hpc.wait_status("ok") and cluster.slurm.jobs() == []


def test_node_drained(hpc: Endpoint, cluster: Cluster, service: Elastic) -> None:
    hpc.add(max_blocks=1)
    with service.umbel.executor(hpc.name) as executor:
        futures = [executor.submit(work, number) for number in range(60)]
        drained = futures[0].result(timeout=120)[2]
        cluster.slurm.call("scontrol", "update", f"nodename={drained}", "state=drain", "reason=e2e")
        results = [future.result(timeout=120) for future in futures]
    assert [result[0] for result in results] == list(range(60))
    assert {result[2] for result in results} == {drained}, "a draining node finishes its job"
    hpc.wait_gone()
    _, nodes = hpc.run(4)
    assert nodes == {"cn1", "cn2"} - {drained}


# for some seconds, and for more than a minute
@pytest.mark.parametrize(("calls", "seconds"), [(30, 0.2), pytest.param(72, 2.0, marks=pytest.mark.long)])
def test_slurmctld_down_and_sshd_restarted(
    hpc: Endpoint, cluster: Cluster, service: Elastic, calls: int, seconds: float
) -> None:
    hpc.add(max_blocks=2, idle_time=60)
    (job,), _ = hpc.run(1)
    cluster.slurm.stop_controller()
    assert "slurm" in hpc.wait_status("unreachable")["message"].lower()
    cluster.login.stop()
    # it works on while its site is away, and demand brings no second block
    assert hpc.run(calls, seconds)[0] == {job}
    assert [block["job_id"] for block in hpc.active] == [job]
    cluster.login.start()
    cluster.slurm.start_controller()
    hpc.wait_status("ok")
    assert [block["job_id"] for block in hpc.active] == [job] and len(cluster.slurm.jobs()) == 1
    hpc.run(100)
    assert len(hpc.blocks) <= 2


def test_submissions_refused_by_limits(hpc: Endpoint, cluster: Cluster, service: Elastic) -> None:
    """A limit of jobs is waited for; a time limit that no wait will change counts as refused."""
    hpc.add(site={"directives": ["--partition=short"]})
    with service.umbel.executor(hpc.name) as executor:
        future = executor.submit(work, 7)
        wait_until(lambda: hpc.blocks, 60.0, what="the first try", interval=0.2)
        wait_until(lambda: "time limit" in hpc.blocks[0]["reason"], 30.0, interval=0.2)
        assert cluster.slurm.jobs() == [] and hpc.active == []
        path = f"/v1/endpoints/{hpc.name}"
        service.api("PATCH", f"{path}/policy", {"walltime": 240})
        cluster.slurm.change("SchedulerParameters=", "SchedulerParameters=jobs_per_user_per_hour=1,")
        cluster.account.run(
            f"printf '#!/bin/sh\\ntrue\\n' | SLURM_CONF={cluster.slurm.conf} sbatch --output=/dev/null"
        )
        service.api("POST", f"{path}/resume")
        wait_until(lambda: "job submit limit" in hpc.blocks[0]["reason"], 60.0, interval=0.2)
        assert hpc.active == [] and service.look(hpc.name)["status"] == "ok"
        cluster.slurm.change("jobs_per_user_per_hour=1,", "")
        service.api("POST", f"{path}/resume")
        assert future.result(timeout=120)[0] == 7


def test_gridengine_limit_of_jobs(hpc: Endpoint, cluster: Cluster, service: Elastic) -> None:
    hpc.add(kind="gridengine", slot_work=0.1)
    cluster.gridengine.limit_jobs(1)
    jobs, _ = hpc.run(60)
    assert len(jobs) == 1
    reasons = [block["reason"] for block in hpc.blocks if block["state"] == "failed"]
    assert reasons and all("jobs are allowed per user" in reason for reason in reasons)
    assert len(reasons) <= 2, "a limit is waited for, not run against"
    assert service.look(hpc.name)["status"] == "ok"


def test_disk_full_on_the_site(hpc: Endpoint, cluster: Cluster, service: Elastic) -> None:
    """Full while Umbel is installed, and full again while calls run."""
    hpc.add(site={"folder": "scratch/umbel"}, max_blocks=1)
    message = hpc.wait_status("unreachable")["message"]
    while "authorized_keys" in message:  # it looked before the key was installed
        message = hpc.wait_status("unreachable")["message"]
    assert "scratch" in message
    cluster.resize_scratch("400m")
    with service.umbel.executor(hpc.name) as executor:
        futures = [executor.submit(work, number, 0.05) for number in range(200)]
        futures[0].result(timeout=180)
        filler = Path(cluster.scratch / "filler")
        cluster.account.run(f"dd if=/dev/zero of={filler} bs=1M count=500 2>/dev/null || true")
        futures[60].result(timeout=120)
        filler.unlink()
        assert [future.result(timeout=180)[0] for future in futures] == list(range(200))
    hpc.wait_gone()


@pytest.mark.long
def test_link_of_a_compute_node_cut(hpc: Endpoint, cluster: Cluster, service: Elastic) -> None:
    hpc.add(slots_per_node=4, slot_work=0.1)
    with service.umbel.executor(hpc.name) as executor:
        futures = [executor.submit(work, number, 0.25) for number in range(400)]
        wait_until(lambda: len([b for b in hpc.active if b["busy"]]) == 2, 120.0, what="two busy blocks")
        cut = hpc.active[0]["hosts"][0]
        cluster.network.link(cut, "down")
        results = [future.result(timeout=240) for future in futures]
        assert [number for number, _, _ in results] == list(range(400))
        wait_until(lambda: [b for b in hpc.blocks if b["state"] == "node_fail"], 120.0, interval=0.5)
        cluster.network.link(cut, "up")
    hpc.wait_gone()
    assert service.look(hpc.name)["bad_nodes"] == {}, "one failure is no bad node yet"


@pytest.mark.long
def test_job_killed_by_its_walltime(hpc: Endpoint, cluster: Cluster, service: Elastic) -> None:
    hpc.add(max_blocks=1, walltime=60, drain_margin=5)
    marker = str(cluster.account.home / "begun")
    with service.umbel.executor(hpc.name) as executor:
        killed = executor.submit(_slow_once, marker, 600.0)
        wait_until(lambda: hpc.active and hpc.active[0]["job_id"], 60.0)
        first = hpc.active[0]["job_id"]
        assert killed.result(timeout=300) not in ("", first)
    hpc.wait_gone()
    states = {block["job_id"]: block["state"] for block in hpc.blocks}
    # its worker leaves a moment before the system would end it
    assert states[first] in ("completed", "timeout"), states
    assert service.look(hpc.name)["status"] == "ok"
