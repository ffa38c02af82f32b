"""A site takes nodes away for an urgent job: that is nobody's failure, and nothing is lost or doubled."""

from __future__ import annotations

import pytest

from tests.support.wait import wait_until

from .cluster import Cluster, Endpoint, work
from .elastic import Elastic

pytestmark = pytest.mark.timeout(300)


def _stubborn(marker: str, seconds: float) -> str:
    """Sleep long the first time, whoever asks to stop; be quick the second. Returns the job."""
    import os
    import time

    job = os.environ["SLURM_JOB_ID"]
    if not os.path.exists(marker):
        with open(marker, "w") as file:
            file.write(job)
        time.sleep(seconds)
    return job


# the site cancels what it preempts, or puts it back into its queue; and a block never runs twice
@pytest.mark.parametrize("partition", ["debug", "scavenge"])
def test_preempted_by_an_urgent_job(
    hpc: Endpoint, cluster: Cluster, service: Elastic, partition: str
) -> None:
    hpc.add(site={"directives": [f"--partition={partition}"]}, slots_per_node=4, slot_work=0.1, idle_time=8)
    marker = cluster.account.home / f"begun-{partition}"
    with service.umbel.executor(hpc.name) as executor:
        stubborn = executor.submit(_stubborn, str(marker), 120.0)
        futures = [executor.submit(work, number, 0.25) for number in range(240)]
        wait_until(lambda: marker.exists() and marker.read_text(), 120.0, what="the long call")
        taken = marker.read_text()
        node = cluster.slurm.call("squeue", "-h", "-j", taken, "-o", "%N").strip()
        words = [
            "--parsable",
            "--partition=urgent",
            "--exclusive",
            f"--nodelist={node}",
            "--output=/dev/null",
        ]
        urgent = cluster.slurm.call("sbatch", *words, "--wrap=sleep 5").strip()
        assert urgent
        results = [future.result(timeout=180) for future in futures]
        again = stubborn.result(timeout=180)
        assert again not in ("", taken), "its node was taken away, and it ran again elsewhere"
    assert [number for number, _, _ in results] == list(range(240))
    hpc.wait_gone()
    blocks = {block["job_id"]: block for block in hpc.blocks}
    assert len(blocks) == len(hpc.blocks) <= 4, "each block is one job"
    assert blocks[taken]["state"] == "preempted"
    assert {block["state"] for job, block in blocks.items() if job != taken} == {"completed"}
    assert "Restarts=0" in cluster.slurm.call("scontrol", "show", "job", taken), "it did not run twice"
    shown = service.look(hpc.name)
    assert (shown["status"], shown["bad_nodes"]) == ("ok", {})
    wait_until(lambda: cluster.slurm.jobs() == [], 60.0, what="the end of the urgent job")
