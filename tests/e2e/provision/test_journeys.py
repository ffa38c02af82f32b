"""From one command to work done and nothing left, on each kind of site."""

from __future__ import annotations

import time

import pytest

from .cluster import Cluster, Endpoint
from .elastic import Elastic

pytestmark = pytest.mark.timeout(400)
CALLS = 400


def _journey(hpc: Endpoint) -> tuple[set[str], set[str]]:
    """0 → max → 0; returns jobs and nodes that worked."""
    hpc.wait_status("ok")
    assert hpc.blocks == []
    began = time.monotonic()
    hpc.run(1)
    print(f"first result after {time.monotonic() - began:.2f} s on an empty cluster")
    jobs, nodes = hpc.run(CALLS)
    assert "" not in jobs
    hpc.wait_gone()
    blocks = hpc.blocks
    assert {block["state"] for block in blocks} == {"completed"}, blocks
    assert len(blocks) <= 4 and all(block["hosts"] for block in blocks)
    assert all(block["busy_slot_seconds"] >= 0 and block["node_hours"] > 0 for block in blocks)
    return jobs, nodes


def test_slurm(hpc: Endpoint, cluster: Cluster) -> None:
    hpc.add(slots_per_node=4)
    jobs, nodes = _journey(hpc)
    assert len(jobs) >= 2 and nodes == {"cn1", "cn2"}, "both blocks had work, each on a node of its own"
    assert cluster.slurm.jobs() == []


def test_gridengine(hpc: Endpoint, cluster: Cluster) -> None:
    hpc.add(kind="gridengine")
    jobs, nodes = _journey(hpc)
    assert len(jobs) >= 2 and nodes == {"cn1", "cn2"}
    assert cluster.gridengine.jobs() == []


def test_through_the_reverse_tunnel(hpc: Endpoint, cluster: Cluster, service: Elastic) -> None:
    """Nodes reach nothing but each other; sshd and the provisioner are restarted on the way."""
    for name in ("login", "cn1", "cn2"):
        cluster.network.wall(name, closed=True)
    site = {"network": "auto", "tunnel_bind": cluster.login.address}
    made = hpc.add(site=site, slots_per_node=4)
    assert "port-forwarding" in made["authorized_keys"]
    _, nodes = _journey(hpc)
    assert nodes == {"cn1", "cn2"}


def test_workers_find_their_way_again(hpc: Endpoint, cluster: Cluster, service: Elastic) -> None:
    """Behind a wall, after sshd and after the provisioner were restarted: the same workers, the same job."""
    for name in ("login", "cn1", "cn2"):
        cluster.network.wall(name, closed=True)
    hpc.add(site={"network": "auto", "tunnel_bind": cluster.login.address}, max_blocks=1, idle_time=100)
    (first,), _ = hpc.run(1)
    cluster.login.stop()
    cluster.login.start()
    assert hpc.run(1)[0] == {first}
    service.kill()
    assert hpc.run(1)[0] == {first}
    assert len(cluster.slurm.jobs()) == 1 and len(hpc.blocks) == 1
