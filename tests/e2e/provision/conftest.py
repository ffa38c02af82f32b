"""Fixtures of the provisioner's end-to-end tests: one cluster and one federation for all of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.embedded import free_port

from .cluster import Cluster, Endpoint
from .elastic import Elastic, broker, elastic
from .machines import Account, Sshd, need
from .network import BROKER


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    need("sshd", "useradd", "ip", "nsenter", "slurmctld", "slurmd", "munged", "sbatch")
    account = Account("e2e")
    try:
        cluster = Cluster(account)
        try:
            yield cluster
        finally:
            cluster.close()
    finally:
        account.remove()


@pytest.fixture(scope="session")
def service(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Elastic]:
    folder = tmp_path_factory.mktemp("federation")
    redis, environ = broker(folder / "broker", BROKER, free_port())
    try:
        # nodes that are cut off count as lost a little sooner than in life
        with elastic(folder, UMBEL_NODE_LOST_AFTER="30", **environ) as service:
            # the environment on the site serves all tests: it stays while any endpoint is there
            cluster.account.run("mkdir -p .umbel/endpoints/of-another-service")
            yield service
    finally:
        redis.process.terminate()
        redis.wait()


@pytest.fixture
def hpc(service: Elastic, cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Endpoint]:
    """An endpoint that is yet to be added. After the test everything is healed, and nothing may be left."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower().removeprefix("test_"))[:40].strip("-")
    endpoint = Endpoint(service, cluster, name)
    before = len(service.log)
    try:
        yield endpoint
    finally:
        print(service.log[before:])
        cluster.heal()
        endpoint.remove()
        cluster.assert_clean()


@pytest.fixture
def account() -> Iterator[Account]:
    """An account with a bare home on this machine."""
    need("sshd", "useradd")
    account = Account("bare")
    yield account
    account.remove()


@pytest.fixture
def sshd(account: Account, tmp_path: Path) -> Iterator[Sshd]:
    sshd = Sshd(tmp_path / "sshd", account)
    yield sshd
    sshd.stop()
