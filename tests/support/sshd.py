"""A real sshd on loopback, for the account that runs the tests."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import subprocess
from pathlib import Path

import psutil

from federation.provision.connection.ssh import Address, Hop
from tests.support.embedded import free_port
from tests.support.wait import wait_until

PROGRAM = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")


class Sshd:
    """Lets in whoever has a key in ``allow``. ``more``: lines of its configuration."""

    def __init__(self, folder: Path, more: str = ""):
        folder.mkdir(parents=True)
        self.folder, self.port = folder, free_port()
        self.user = getpass.getuser()
        key = folder / "host"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        self._keys = folder / "authorized_keys"
        self._keys.touch(mode=0o600)
        # first given, first taken: what a test wants comes first
        (folder / "config").write_text(
            f"{more}\nPort {self.port}\nListenAddress 127.0.0.1\nHostKey {key}\nPidFile {folder}/pid\n"
            f"AuthorizedKeysFile {self._keys}\nStrictModes no\nPasswordAuthentication no\nUsePAM no\n"
            "KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\nLogLevel VERBOSE\n"
            "Subsystem sftp internal-sftp\n"
        )
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def hop(self) -> Hop:
        """This machine and its key."""
        return Hop(self.address, " ".join((self.folder / "host.pub").read_text().split()[:2]))

    @property
    def address(self) -> Address:
        """Where it is."""
        return Address(self.user, "127.0.0.1", self.port)

    @property
    def log(self) -> str:
        """What it has said."""
        return (self.folder / "log").read_text(errors="replace")

    def allow(self, line: str) -> None:
        """Let this key in."""
        with self._keys.open("a") as file:
            file.write(line + "\n")

    def start(self) -> None:
        """Start it and wait until it listens."""
        if os.geteuid() == 0:
            os.makedirs("/run/sshd", exist_ok=True)
        assert PROGRAM is not None
        words = [PROGRAM, "-D", "-f", str(self.folder / "config"), "-E", str(self.folder / "log")]
        self._process = subprocess.Popen(words)
        wait_until(lambda: (self.folder / "pid").exists(), 20.0, what="sshd")

    def cut(self) -> None:
        """Kill every connection; it goes on listening."""
        assert self._process is not None
        children = psutil.Process(self._process.pid).children(recursive=True)
        own = []
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):  # it has ended meanwhile
                if child.name().startswith("sshd"):
                    child.send_signal(signal.SIGKILL)
                    own.append(child)
        psutil.wait_procs(own, timeout=10.0)

    def stop(self) -> None:
        """End it with all its connections."""
        if self._process is None:
            return
        self.cut()
        self._process.terminate()
        self._process.wait(20)
        self._process = None
        (self.folder / "pid").unlink(missing_ok=True)
