"""Real machines for the provisioner, all on this one: an sshd, an account with a bare home, Slurm.

Everything lives in one folder and is ended by process id. Needs root.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from tests.support.embedded import free_port
from tests.support.wait import wait_until

#: One of its own for each run, as several may go on at once.
ACCOUNT = f"umbel-e2e-{os.getpid()}"


def need(*programs: str) -> None:
    """Skip where this cannot run: not root, or a program is missing."""
    if os.geteuid() != 0:
        pytest.skip("needs root: it makes an account and starts sshd")
    missing = [
        name for name in programs if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None
    ]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


class Account:
    """An unprivileged account with an empty home."""

    def __init__(self) -> None:
        self.name = ACCOUNT
        subprocess.run(["userdel", "-rf", ACCOUNT], capture_output=True)
        subprocess.run(["useradd", "-m", "-s", "/bin/bash", ACCOUNT], check=True, capture_output=True)
        # a locked account cannot log in with a key either
        subprocess.run(["usermod", "-p", "*", ACCOUNT], check=True)
        entry = pwd.getpwnam(ACCOUNT)
        self.home, self.uid, self.gid = Path(entry.pw_dir), entry.pw_uid, entry.pw_gid

    def allow(self, line: str) -> None:
        """Install a line in ``authorized_keys``, as its owner would."""
        folder = self.home / ".ssh"
        folder.mkdir(mode=0o700, exist_ok=True)
        (folder / "authorized_keys").write_text(line + "\n")
        for path in (folder, folder / "authorized_keys"):
            os.chown(path, self.uid, self.gid)

    def greet(self, text: str) -> None:
        """Have the login shell print a banner, as many sites do."""
        for name in (".bashrc", ".profile", ".bash_profile"):
            (self.home / name).write_text(f"echo '{text}'\necho '{text}' >&2\n")

    def run(self, command: str) -> None:
        """Run a command as this account."""
        words = [
            "setpriv",
            f"--reuid={self.uid}",
            f"--regid={self.gid}",
            "--clear-groups",
            "sh",
            "-c",
            command,
        ]
        subprocess.run(words, check=True, cwd=self.home, capture_output=True, timeout=30)

    def processes(self) -> list[psutil.Process]:
        """What runs as this account and is more than a zombie."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.uids().real == self.uid and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        return found

    def remove(self) -> None:
        """End what it runs, and delete it."""
        for process in self.processes():
            process.kill()
        wait_until(lambda: not self.processes(), 10.0, what="the end of the account's processes")
        subprocess.run(["userdel", "-rf", ACCOUNT], check=True, capture_output=True)


class Sshd:
    """A real sshd of its own. ``wrap``: words before its command, such as to enter a network namespace."""

    def __init__(
        self,
        folder: Path,
        *,
        address: str = "127.0.0.1",
        environ: str = "",
        wrap: Sequence[str] = (),
        more: str = "",
    ):
        folder.mkdir(parents=True)
        self.folder, self.address, self.port = folder, address, free_port()
        self._wrap = list(wrap)
        key = folder / "host_ed25519"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        (folder / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress {address}\nHostKey {key}\nPidFile {folder}/sshd.pid\n"
            "AuthorizedKeysFile .ssh/authorized_keys\nPubkeyAuthentication yes\nPasswordAuthentication no\n"
            "KbdInteractiveAuthentication no\nUsePAM no\nPermitRootLogin no\nStrictModes yes\n"
            f"AllowUsers {ACCOUNT}\nGatewayPorts clientspecified\nLogLevel VERBOSE\nPrintMotd no\n"
            f"Subsystem sftp internal-sftp\n{environ}\n{more}\n"
        )
        self.start()

    @property
    def url(self) -> str:
        """The address for ``umbel endpoint add``."""
        return f"ssh://{ACCOUNT}@{self.address}:{self.port}"

    @property
    def commands(self) -> int:
        """How many sessions have been opened so far."""
        return (self.folder / "sshd.log").read_text(errors="replace").count("Starting session")

    def start(self) -> None:
        """Start it and wait until it listens."""
        os.makedirs("/run/sshd", exist_ok=True)
        words = [*self._wrap, "/usr/sbin/sshd", "-f", str(self.folder / "sshd_config")]
        subprocess.run([*words, "-E", str(self.folder / "sshd.log")], check=True)
        wait_until(lambda: (self.folder / "sshd.pid").exists(), 10.0)

    def stop(self) -> None:
        """End it with all its connections."""
        file = self.folder / "sshd.pid"
        if not file.exists():
            return
        listener = psutil.Process(int(file.read_text()))
        family = [*listener.children(recursive=True), listener]
        own = [process for process in family if process.name().startswith("sshd")]
        for process in own:
            process.send_signal(signal.SIGTERM)
        psutil.wait_procs(own, timeout=5.0)
        file.unlink(missing_ok=True)
