"""Fixtures of the provisioner's end-to-end tests."""

from __future__ import annotations

import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .elastic import Elastic, elastic
from .machines import Account, Sshd, need
from .network import Network
from .slurm import Slurm


@pytest.fixture
def account() -> Iterator[Account]:
    need("sshd", "useradd")
    account = Account()
    yield account
    account.remove()


@pytest.fixture
def sshd(account: Account, tmp_path: Path) -> Iterator[Sshd]:
    sshd = Sshd(tmp_path / "sshd")
    yield sshd
    sshd.stop()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Elastic]:
    with elastic(tmp_path) as service:
        yield service


@pytest.fixture
def slurm(account: Account) -> Iterator[Slurm]:
    need("slurmctld", "slurmd", "munged", "sbatch")
    # not in tmp_path: other accounts must be able to look in
    folder = Path(tempfile.mkdtemp(prefix="umbel-e2e-", dir="/var/tmp"))
    folder.chmod(0o755)
    host = socket.gethostname()
    nodes = {f"node{number}": ("127.0.0.1", host, ()) for number in (1, 2)}
    slurm = Slurm(folder / "slurm", nodes)
    yield slurm
    slurm.stop()
    shutil.rmtree(folder)


@pytest.fixture
def slurm_login(slurm: Slurm, tmp_path: Path) -> Iterator[Sshd]:
    sshd = Sshd(tmp_path / "login", environ=f"SetEnv SLURM_CONF={slurm.conf}")
    yield sshd
    sshd.stop()


@pytest.fixture
def network() -> Iterator[Network]:
    need("ip", "nsenter")
    network = Network()
    yield network
    network.close()


@pytest.fixture
def cluster(account: Account, network: Network, tmp_path: Path) -> Iterator[tuple[Slurm, Sshd]]:
    """Slurm and sshd on a network of their own: compute nodes reach the login node and nothing else."""
    need("slurmctld", "slurmd", "munged", "sbatch")
    folder = Path(tempfile.mkdtemp(prefix="umbel-e2e-", dir="/var/tmp"))
    folder.chmod(0o755)
    nodes = {name: (network.address(name), name, network.wrap(name)) for name in ("cn1", "cn2")}
    login = network.wrap("login")
    slurm = Slurm(folder / "slurm", nodes, controller=f"login({network.address('login')})", wrap=login)
    environ = f"SetEnv SLURM_CONF={slurm.conf}"
    sshd = Sshd(tmp_path / "login", address=network.address("login"), environ=environ, wrap=login)
    yield slurm, sshd
    sshd.stop()
    slurm.stop()
    shutil.rmtree(folder)
