"""A cluster whose nodes reach nothing but their login node: workers go through our SSH connection."""

from __future__ import annotations

import pytest

from tests.support.wait import wait_until

from .elastic import Elastic
from .machines import Account, Sshd
from .network import Network
from .slurm import Slurm

pytestmark = pytest.mark.timeout(300)
POLICY = {"max_blocks": 2, "slots_per_node": 2, "idle_time": 5, "walltime": 900, "slot_work": 1, "grace": 20}


def _where(number: int) -> tuple[int, str]:
    import socket
    import time

    time.sleep(0.1)
    return number, socket.gethostname()


def test_through_the_reverse_tunnel(
    service: Elastic, account: Account, network: Network, cluster: tuple[Slurm, Sshd]
) -> None:
    slurm, login = cluster
    # four slots, so that a block fills a node
    site = {"address": login.url, "scheduler": "slurm", "interval": 3.0, "tunnel_bind": login.address}
    made = service.add("hpc", site, {**POLICY, "slots_per_node": 4})
    assert "port-forwarding" in made["authorized_keys"]
    account.allow(made["authorized_keys"])
    with service.umbel.executor("hpc") as executor:
        futures = [executor.submit(_where, number) for number in range(400)]
        results = [future.result(timeout=150) for future in futures]
    assert [number for number, _ in results] == list(range(400))
    assert {node for _, node in results} == {"cn1", "cn2"}
    service.wait_gone("hpc", 90.0)
    assert slurm.jobs() == []
    wait_until(lambda: not [p for p in account.processes() if "python" in p.name()], 20.0)


def test_workers_find_the_way_again_after_sshd_and_provisioner_were_restarted(
    service: Elastic, account: Account, network: Network, cluster: tuple[Slurm, Sshd]
) -> None:
    slurm, login = cluster
    site = {"address": login.url, "scheduler": "slurm", "interval": 3.0, "tunnel_bind": login.address}
    account.allow(service.add("hpc", site, {**POLICY, "idle_time": 100})["authorized_keys"])
    with service.umbel.executor("hpc") as executor:
        assert executor.submit(_where, 1).result(timeout=150)[0] == 1
        login.stop()
        login.start()
        assert executor.submit(_where, 2).result(timeout=90)[0] == 2
        service.kill()
        service.start()
        assert executor.submit(_where, 3).result(timeout=90)[0] == 3
    assert len(slurm.jobs()) == 1 and len(service.look("hpc")["blocks"]) == 1
