"""The Ansible role, run by ansible-playbook against a real sshd and a bare account."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.support.embedded import ROOT

from .elastic import WHEELHOUSE, Elastic
from .machines import Account, Sshd

pytestmark = pytest.mark.timeout(480)


def _who(number: int) -> tuple[int, int]:
    import os

    return number, os.getuid()


class Playbook:
    """``ansible/endpoints.yml`` against one host."""

    def __init__(self, service: Elastic, account: Account, sshd: Sshd, folder: Path):
        beside = Path(sys.executable).parent / "ansible-playbook"
        found = os.environ.get("ANSIBLE_PLAYBOOK") or shutil.which("ansible-playbook") or str(beside)
        if not Path(found).exists():
            pytest.skip("not installed: ansible-playbook")
        key = Ed25519PrivateKey.generate()
        private = (
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )
        public = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        (folder / "key").write_bytes(key.private_bytes(*private))
        (folder / "key").chmod(0o600)
        account.allow(key.public_key().public_bytes(*public).decode())
        user = service.umbel.account()
        (folder / "inventory").write_text(
            f"lab ansible_host={sshd.address} ansible_port={sshd.port} ansible_user={account.name} "
            f"ansible_ssh_private_key_file={folder}/key ansible_python_interpreter=/usr/bin/python3\n"
        )
        self._words = [found, "-i", str(folder / "inventory"), str(ROOT / "ansible/endpoints.yml")]
        for name, value in {
            "umbel_wheelhouse": WHEELHOUSE,
            "umbel_api_url": user["url"],
            "umbel_token": user["token"],
            "umbel_settings": '{"slots": 2}',
        }.items():
            self._words += ["-e", f'{{"{name}": {value}}}' if str(value)[0] == "{" else f"{name}={value}"]
        self._output = folder / "playbook.out"
        self._environ = {
            **os.environ,
            "ANSIBLE_HOST_KEY_CHECKING": "False",
            "ANSIBLE_LOCAL_TEMP": str(folder / "ansible"),
            "ANSIBLE_SSH_CONTROL_PATH_DIR": f"/tmp/ue-{os.getpid()}",
            "ANSIBLE_SSH_ARGS": "-o ControlMaster=auto -o ControlPersist=15s",
            "ANSIBLE_PIPELINING": "True",
        }

    def run(self, *more: str) -> int:
        """Run it; return how many tasks changed something."""
        words = [*self._words, *more]
        # a file, not a pipe: the shared connection lives on after the playbook and would hold the pipe open
        with self._output.open("w") as out:
            code = subprocess.run(words, env=self._environ, stdout=out, stderr=out, timeout=200).returncode
        said = self._output.read_text()
        assert code == 0, said[-6000:]
        found = re.search(r"changed=(\d+)", said)
        assert found, said
        print(f"ansible-playbook {' '.join(more)}: {found[0]}", flush=True)
        return int(found[1])


def test_an_endpoint_is_deployed_twice_stopped_and_removed(
    service: Elastic, account: Account, sshd: Sshd, tmp_path: Path
) -> None:
    playbook = Playbook(service, account, sshd, tmp_path)
    assert playbook.run() > 0
    service.umbel.wait_online("lab")
    with service.umbel.executor("lab") as executor:
        results = [future.result(60) for future in [executor.submit(_who, number) for number in range(100)]]
    assert results == [(number, account.uid) for number in range(100)]
    assert playbook.run() == 0, "the second run changes nothing"
    assert playbook.run("--check") == 0
    assert playbook.run("-e", "umbel_endpoint_state=stopped") == 1
    assert not [process for process in account.processes() if "python" in process.name()]
    assert playbook.run("-e", "umbel_endpoint_state=absent") > 0
    assert not (account.home / ".umbel").exists()
    assert playbook.run("-e", "umbel_endpoint_state=absent") == 0
