"""Real machines for the provisioner, all on this one: an sshd, accounts with bare homes.

Everything is ended by process id. Needs root.
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
    """An unprivileged account with an empty home. ``role``: what it is for, in its name."""

    def __init__(self, role: str) -> None:
        # one of its own for each run, as several may go on at once
        self.name = f"umbel-{role}-{os.getpid()}"
        subprocess.run(["userdel", "-rf", self.name], capture_output=True)
        subprocess.run(["useradd", "-m", "-s", "/bin/bash", self.name], check=True, capture_output=True)
        # a locked account cannot log in with a key either
        subprocess.run(["usermod", "-p", "*", self.name], check=True)
        entry = pwd.getpwnam(self.name)
        self.home, self.uid, self.gid = Path(entry.pw_dir), entry.pw_uid, entry.pw_gid

    def allow(self, line: str) -> None:
        """Add a line to ``authorized_keys``, as its owner would."""
        folder = self.home / ".ssh"
        folder.mkdir(mode=0o700, exist_ok=True)
        with (folder / "authorized_keys").open("a") as file:
            file.write(line + "\n")
        for path in (folder, folder / "authorized_keys"):
            os.chown(path, self.uid, self.gid)

    def greet(self, text: str) -> None:
        """Have the login shell print a banner, as many sites do."""
        for name in (".bashrc", ".profile", ".bash_profile"):
            (self.home / name).write_text(f"echo '{text}'\necho '{text}' >&2\n")

    def run(self, command: str) -> str:
        """Run a shell command as this account; return its output."""
        words = [
            "setpriv",
            f"--reuid={self.uid}",
            f"--regid={self.gid}",
            "--clear-groups",
            "sh",
            "-c",
            command,
        ]
        environ = {"HOME": str(self.home), "USER": self.name, "PATH": os.environ["PATH"]}
        done = subprocess.run(
            words, check=True, cwd=self.home, env=environ, capture_output=True, timeout=60, text=True
        )
        return done.stdout

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

    def workers(self) -> list[psutil.Process]:
        """Its processes that have to do with Umbel."""
        found = []
        for process in self.processes():
            try:
                if "umbel" in " ".join(process.cmdline()) and "sshd" not in process.name():
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        return found

    def wait_idle(self, timeout: float = 30.0) -> None:
        """Wait until nothing of Umbel is left of it, on whatever node."""
        wait_until(lambda: not self.workers(), timeout, what=f"the end of what {self.name} runs")

    def remove(self) -> None:
        """End what it runs, and delete it."""

        def ended() -> bool:
            for process in self.processes():
                process.kill()
            return not self.processes()

        wait_until(ended, 20.0, what="the end of the account's processes")
        subprocess.run(["userdel", "-rf", self.name], check=True, capture_output=True)


class Sshd:
    """A real sshd of its own. ``wrap``: words before its command, such as to enter a network namespace."""

    def __init__(
        self,
        folder: Path,
        account: Account,
        *,
        address: str = "127.0.0.1",
        environ: str = "",
        wrap: Sequence[str] = (),
        more: str = "",
    ):
        folder.mkdir(parents=True)
        self.folder, self.address, self.port, self.account = folder, address, free_port(), account
        self._wrap = list(wrap)
        key = folder / "host_ed25519"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        (folder / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress {address}\nHostKey {key}\nPidFile {folder}/sshd.pid\n"
            "AuthorizedKeysFile .ssh/authorized_keys\nPubkeyAuthentication yes\nPasswordAuthentication no\n"
            "KbdInteractiveAuthentication no\nUsePAM no\nPermitRootLogin no\nStrictModes yes\n"
            f"AllowUsers {account.name}\nGatewayPorts clientspecified\nLogLevel VERBOSE\nPrintMotd no\n"
            "MaxStartups 100:30:200\n"
            f"Subsystem sftp internal-sftp\n{environ}\n{more}\n"
        )
        self.start()

    @property
    def url(self) -> str:
        """The address for ``umbel endpoint add``."""
        return f"ssh://{self.account.name}@{self.address}:{self.port}"

    @property
    def commands(self) -> int:
        """How many sessions have been opened so far."""
        return (self.folder / "sshd.log").read_text(errors="replace").count("Starting session")

    @property
    def running(self) -> bool:
        """Whether it has been started and not stopped."""
        return (self.folder / "sshd.pid").exists()

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
