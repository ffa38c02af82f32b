"""The Ansible role, run by ansible-playbook against a real sshd and bare accounts, without and with root."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.support.embedded import ROOT

from .elastic import Elastic
from .machines import Account, Sshd
from .wheels import wheelhouse

pytestmark = pytest.mark.timeout(480)


def _who(number: int) -> tuple[int, int]:
    import os

    return number, os.getuid()


class Playbook:
    """``ansible/endpoints.yml`` against one host. ``place``: the inventory's words on how it is reached."""

    def __init__(self, service: Elastic, folder: Path, name: str, place: str, **variables: Any):
        beside = Path(sys.executable).parent / "ansible-playbook"
        found = beside if beside.exists() else shutil.which("ansible-playbook")
        if found is None:
            pytest.skip("not installed: ansible-playbook")
        self._folder = folder
        (folder / "inventory").write_text(f"{name} {place} ansible_python_interpreter=/usr/bin/python3\n")
        self.variables = {
            "umbel_wheelhouse": str(wheelhouse()),
            "umbel_api_url": service.umbel.url,
            "umbel_settings": {"slots": 2},
            **variables,
        }
        words = [str(found), "-i", str(folder / "inventory"), str(ROOT / "ansible/endpoints.yml")]
        self._words = [*words, "-e", f"@{folder}/variables.json"]
        self._environ = {
            **os.environ,
            "ANSIBLE_HOST_KEY_CHECKING": "False",
            "ANSIBLE_LOCAL_TEMP": str(folder / "ansible"),
            "ANSIBLE_SSH_CONTROL_PATH_DIR": f"/tmp/ue-{os.getpid()}",
            "ANSIBLE_SSH_ARGS": "-o ControlMaster=auto -o ControlPersist=15s",
            "ANSIBLE_PIPELINING": "True",
            "LC_ALL": "C.UTF-8",
        }

    def run(self, *more: str, **variables: Any) -> int:
        """Run it; return how many tasks changed something."""
        (self._folder / "variables.json").write_text(json.dumps({**self.variables, **variables}))
        output = self._folder / "playbook.out"
        # a file, not a pipe: the shared connection lives on after the playbook and would hold the pipe open
        with output.open("w") as out:
            words = [*self._words, *more]
            code = subprocess.run(words, env=self._environ, stdout=out, stderr=out, timeout=200).returncode
        said = output.read_text()
        assert code == 0, said[-6000:]
        found = re.search(r"changed=(\d+)", said)
        assert found, said
        print(f"ansible-playbook {' '.join(more)}: {found[0]}", flush=True)
        return int(found[1])


def _login(account: Account, sshd: Sshd, folder: Path) -> str:
    """A key for the account; the inventory's words to log in with it."""
    key = Ed25519PrivateKey.generate()
    coding = serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    (folder / "key").write_bytes(key.private_bytes(*coding))
    (folder / "key").chmod(0o600)
    public = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    account.allow(key.public_key().public_bytes(*public).decode())
    return (
        f"ansible_host={sshd.address} ansible_port={sshd.port} ansible_user={account.name} "
        f"ansible_ssh_private_key_file={folder}/key"
    )


def test_without_root(service: Elastic, account: Account, sshd: Sshd, tmp_path: Path) -> None:
    """Deployed with a code, again, changed, upgraded, stopped, removed: over SSH into a bare account."""
    token = service.umbel.account()["token"]
    playbook = Playbook(service, tmp_path, "lab", _login(account, sshd, tmp_path))
    playbook.variables["umbel_code"] = service.api("POST", "/v1/codes", {"name": "lab"})["code"]
    assert playbook.run() > 0
    service.umbel.wait_online("lab")
    with service.umbel.executor("lab") as executor:
        results = [future.result(60) for future in [executor.submit(_who, number) for number in range(100)]]
    assert results == [(number, account.uid) for number in range(100)]
    assert playbook.run() == 0, "the second run changes nothing"
    assert playbook.run("--check") == 0
    kept = [file for file in (account.home / ".umbel").rglob("*") if file.is_file() and file.suffix != ".so"]
    assert not [file for file in kept if token.encode() in file.read_bytes()], "no token is on the host"
    _upgrade(playbook, service, account, tmp_path)
    assert playbook.run(umbel_endpoint_state="stopped") == 1
    account.wait_idle()
    assert playbook.run(umbel_endpoint_state="absent", umbel_token=token) > 0
    assert not (account.home / ".umbel").exists()
    assert "lab" not in [each["name"] for each in service.api("GET", "/v1/endpoints")["items"]]


def _upgrade(playbook: Playbook, service: Elastic, account: Account, folder: Path) -> None:
    """Other wheels, as of a new release: the worker is another one, and what was left of the old is gone."""
    before = {process.pid for process in account.workers()}
    shutil.copytree(playbook.variables["umbel_wheelhouse"], folder / "newer")
    (wheel,) = (folder / "newer").glob("wcwidth-*.whl")
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.comment = b"another build"
    (account.home / ".umbel/wheels/umbel-0.0.1-py3-none-any.whl").write_text("of an earlier version")
    assert playbook.run(umbel_wheelhouse=str(folder / "newer")) > 0
    service.umbel.wait_online("lab")
    assert before.isdisjoint(process.pid for process in account.workers())
    assert not (account.home / ".umbel/wheels/umbel-0.0.1-py3-none-any.whl").exists()
    with service.umbel.executor("lab") as executor:
        assert executor.submit(_who, 1).result(60) == (1, account.uid)


def test_with_root(service: Elastic, account: Account, tmp_path: Path) -> None:
    """Root puts the endpoint into an account; the control machine's token asks for the code."""
    place = "ansible_connection=local ansible_become_method=su"
    token = service.umbel.account()["token"]
    playbook = Playbook(service, tmp_path, "rooted", place, umbel_account=account.name, umbel_token=token)
    playbook.run("--check")
    assert not (account.home / ".umbel").exists(), "check mode changes nothing"
    assert playbook.run() > 0
    service.umbel.wait_online("rooted")
    with service.umbel.executor("rooted") as executor:
        assert executor.submit(_who, 1).result(60) == (1, account.uid)
    assert playbook.run(umbel_endpoint_state="absent") > 0
    assert not (account.home / ".umbel").exists()
    account.wait_idle()
