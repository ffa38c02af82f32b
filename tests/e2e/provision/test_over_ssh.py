"""An endpoint on a bare account behind a real sshd, without a batch system."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from .cluster import Cluster
from .elastic import Elastic
from .machines import Account, Sshd

pytestmark = pytest.mark.timeout(300)
POLICY = {
    "max_blocks": 2,
    "slots_per_node": 2,
    "idle_time": 4,
    "walltime": 600,
    "slot_work": 1,
    "grace": 30,
}


def _where(number: int) -> tuple[int, int, str]:
    import os
    import time

    time.sleep(0.05)
    return number, os.getuid(), os.environ.get("HOME", "")


def test_a_bare_account_becomes_an_endpoint_and_is_bare_again(
    service: Elastic, account: Account, sshd: Sshd
) -> None:
    account.greet("Welcome to the cluster! 'quotes' and Submitted batch job 7".replace("'", ""))
    site = {"address": sshd.url, "scheduler": "processes", "network": "direct", "interval": 2.0}
    made = service.add("bare", site, POLICY)
    assert made["authorized_keys"].startswith("restrict ssh-ed25519 ")
    # before the owner has installed the line, the site is frozen with a clear status
    assert "authorized_keys" in service.wait_status("bare", "unreachable")["message"]
    account.allow(made["authorized_keys"])
    began = time.monotonic()
    with service.umbel.executor("bare") as executor:
        futures = [executor.submit(_where, number) for number in range(400)]
        results = [future.result(timeout=180) for future in futures]
    print(f"400 calls in {time.monotonic() - began:.1f} s")
    assert [number for number, _, _ in results] == list(range(400))
    assert {uid for _, uid, _ in results} == {account.uid} and account.uid != os.getuid()
    assert len(service.look("bare")["blocks"]) <= 4
    service.wait_gone("bare")
    ended = service.look("bare")["blocks"]
    assert {block["state"] for block in ended} == {"completed"}, ended
    assert all(block["busy_slot_seconds"] >= 0 and block["node_hours"] > 0 for block in ended)
    assert (account.home / ".umbel/endpoints/bare/credentials.json").stat().st_mode & 0o777 == 0o600
    service.remove("bare")
    assert not (account.home / ".umbel").exists()
    account.wait_idle()


def test_hosts_without_a_batch_system(service: Elastic, cluster: Cluster, tmp_path: Path) -> None:
    """Two hosts, played by two sshds that share a home, as a lab's machines do; Umbel is there already."""
    account = cluster.account
    with ExitStack() as stack:
        sshds = [Sshd(tmp_path / name, account) for name in ("one", "other")]
        for sshd in sshds:
            stack.callback(sshd.stop)
        hosts = [sshd.url for sshd in sshds]
        site = {"address": hosts[0], "scheduler": "hosts", "hosts": hosts, "interval": 2.0}
        account.allow(service.add("hosts", {**site, "network": "direct"}, POLICY)["authorized_keys"])
        with service.umbel.executor("hosts") as executor:
            futures = [executor.submit(_where, number) for number in range(300)]
            assert [future.result(timeout=180)[0] for future in futures] == list(range(300))
        service.wait_gone("hosts")
        used = {host for block in service.look("hosts")["blocks"] for host in block["hosts"]}
        assert used == set(hosts)
        service.remove("hosts")
        assert not (account.home / ".umbel/endpoints/hosts").exists()
        account.wait_idle()
