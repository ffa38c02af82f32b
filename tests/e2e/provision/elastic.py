"""A whole federation with a provisioner, for tests of elastic endpoints."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.embedded import ROOT, Embedded, Service, environment
from tests.support.wait import wait_until


def _digest() -> str:
    """Of everything that goes into Umbel's wheel."""
    files = [*ROOT.glob("sdk/**/*.py"), *ROOT.glob("endpoint_worker/**/*.py"), ROOT / "setup.cfg"]
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(files))).hexdigest()[:12]


#: Built once for each state of the sources: it takes some ten seconds.
WHEELHOUSE = Path(f"/var/tmp/umbel-e2e-wheelhouse-{_digest()}")


class Elastic:
    """``umbel``: the federation, up. The provisioner runs beside it and may be killed and started again."""

    def __init__(self, umbel: Embedded, folder: Path):
        self.umbel = umbel
        self._folder = folder
        self._environ = environment(UMBEL_HOME=str(umbel.home), UMBEL_LOG_LEVEL="INFO")
        self.provisioner: Service | None = None

    def start(self) -> None:
        """Start the provisioner."""
        words = [sys.executable, "-m", "federation", "provision", "--home", str(self.umbel.home)]
        self.provisioner = Service(words, self._environ, self._folder / "provision.log")

    def kill(self) -> None:
        """End the provisioner the hard way."""
        assert self.provisioner is not None
        self.provisioner.process.kill()
        self.provisioner.process.wait(10)

    def stop(self) -> None:
        """End the provisioner; blocks go on."""
        if self.provisioner is not None and self.provisioner.process.poll() is None:
            self.provisioner.process.terminate()
            self.provisioner.process.wait(20)

    @property
    def log(self) -> str:
        """What the provisioner has said."""
        return (self._folder / "provision.log").read_text()

    def call(self, *words: str) -> str:
        """``python -m federation provision WORDS`` on the service's machine."""
        command = [sys.executable, "-m", "federation", "provision", *words]
        done = subprocess.run(
            command, cwd=ROOT, env=self._environ, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def add(self, name: str, site: dict[str, Any], policy: dict[str, Any]) -> dict[str, Any]:
        """Make an elastic endpoint; its host keys are confirmed."""
        words = ["--site", json.dumps(site), "--policy", json.dumps(policy), "--confirm-host-key"]
        made: dict[str, Any] = json.loads(self.call("add", name, "--user", self.owner, *words))
        return made

    def look(self, name: str) -> dict[str, Any]:
        """Status, budget and blocks of an endpoint."""
        shown: dict[str, Any] = json.loads(self.call("show", name, "--user", self.owner))
        return shown

    @property
    def owner(self) -> str:
        """The account's own user of the federation."""
        return str(self.umbel.client().whoami()["name"])

    def active(self, name: str) -> list[dict[str, Any]]:
        """Blocks that have not ended."""
        return [block for block in self.look(name)["blocks"] if block["ended"] is None]

    def wait_gone(self, name: str, timeout: float) -> None:
        """Wait until no block is left."""
        wait_until(
            lambda: not self.active(name), timeout, what=f"the end of all blocks of {name}", interval=0.5
        )


@contextmanager
def elastic(folder: Path) -> Iterator[Elastic]:
    """A federation without a local endpoint, with a provisioner and a wheelhouse."""
    folder.chmod(0o755)
    if not list(WHEELHOUSE.glob("umbel-*.whl")) or os.environ.get("UMBEL_E2E_WHEELS") == "new":
        shutil.rmtree(WHEELHOUSE, ignore_errors=True)
        for old in WHEELHOUSE.parent.glob("umbel-e2e-wheelhouse-*"):
            if old.stat().st_mtime < time.time() - 86400:
                shutil.rmtree(old, ignore_errors=True)
        words = [sys.executable, "-m", "federation", "provision", "wheelhouse", str(WHEELHOUSE)]
        subprocess.run(words, cwd=ROOT, env=environment(), check=True, capture_output=True, timeout=300)
    with Embedded(folder, workers=0) as umbel:
        (umbel.home / "wheelhouse").symlink_to(WHEELHOUSE)
        service = Elastic(umbel, folder)
        service.start()
        try:
            yield service
        except BaseException:
            print(service.log, file=sys.stderr)
            raise
        finally:
            service.stop()
