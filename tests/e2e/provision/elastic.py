"""A whole federation with a provisioner, for tests of elastic endpoints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from tests.support.embedded import ROOT, Embedded, Service, environment, gone
from tests.support.wait import wait_until

from .wheels import wheelhouse

#: The provisioner's parent: starts it while the file `go` is there, so that a test may end and begin it.
NURSE = """
while [ ! -e end ]; do
    if [ -e go ]; then
        "$@" & echo $! > pid.new; mv pid.new pid; wait $!; rm -f pid
    else
        sleep 0.1
    fi
done
"""


class Elastic:
    """``umbel``: the federation, up. The provisioner runs beside it and may be killed and started again.

    ``environ``: variables of the service, such as where its broker is.
    """

    def __init__(self, umbel: Embedded, folder: Path, environ: dict[str, str]):
        self.umbel = umbel
        self._folder = folder / "provisioner"
        self._folder.mkdir()
        self._environ = environment(UMBEL_HOME=str(umbel.home), UMBEL_LOG_LEVEL="INFO", **environ)
        program = [sys.executable, "-m", "federation", "provision", "--home", str(umbel.home)]
        words = ["sh", "-c", f"cd {self._folder} || exit; {NURSE}", "sh"]
        inside = ["sh", "-c", f'cd {ROOT} && exec "$@"', "sh", *program]
        self._nurse = Service([*words, *inside], self._environ, folder / "provision.log")
        self._log = folder / "provision.log"
        self._client = umbel.client()

    @property
    def pid(self) -> int | None:
        """The provisioner's process id, None: it does not run."""
        try:
            pid = int((self._folder / "pid").read_text())
        except (OSError, ValueError):
            return None
        return pid if psutil.pid_exists(pid) and not gone(psutil.Process(pid)) else None

    def start(self) -> None:
        """Start the provisioner."""
        (self._folder / "go").touch()
        wait_until(lambda: self.pid, 20.0, what="the provisioner's start")

    def kill(self, *, again: bool = True) -> None:
        """End the provisioner the hard way; ``again``: have another begin at once."""
        self._end("kill", again)

    def stop(self) -> None:
        """End the provisioner in good order; blocks go on."""
        self._end("terminate", False)

    def _end(self, how: str, again: bool) -> None:
        if not again:
            (self._folder / "go").unlink(missing_ok=True)
        pid = self.pid
        if pid is not None:
            process = psutil.Process(pid)
            getattr(process, how)()
            wait_until(lambda: gone(process), 30.0, what="the provisioner's end")
        if again:
            wait_until(lambda: self.pid not in (None, pid), 20.0, what="another provisioner")

    def close(self) -> None:
        """End the provisioner and what starts it."""
        (self._folder / "end").touch()
        self.stop()
        self._nurse.wait(20.0)

    @property
    def log(self) -> str:
        """What the provisioner has said."""
        return self._log.read_text(errors="replace")

    def call(self, *words: str, timeout: float = 120.0) -> str:
        """``python -m federation provision WORDS`` on the service's machine."""
        command = [sys.executable, "-m", "federation", "provision", *words]
        done = subprocess.run(
            command, cwd=ROOT, env=self._environ, capture_output=True, text=True, timeout=timeout
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def add(self, name: str, site: dict[str, Any], policy: dict[str, Any]) -> dict[str, Any]:
        """Make an elastic endpoint; its host keys are confirmed."""
        words = ["--site", json.dumps(site), "--policy", json.dumps(policy), "--confirm-host-key"]
        made: dict[str, Any] = json.loads(self.call("add", name, "--user", self.owner, *words))
        return made

    def remove(self, name: str) -> None:
        """Take an elastic endpoint from its site."""
        self.call("remove", name, "--user", self.owner)

    def api(self, method: str, path: str, body: Any = None) -> Any:
        """A request to the API as the account's own user."""
        return ask(self.umbel.account(), method, path, body)

    def look(self, name: str) -> dict[str, Any]:
        """Status, budget and blocks of an endpoint."""
        shown: dict[str, Any] = self.api("GET", f"/v1/endpoints/{name}/blocks")
        return shown

    @property
    def owner(self) -> str:
        """The account's own user of the federation."""
        return str(self._client.whoami()["name"])

    def active(self, name: str) -> list[dict[str, Any]]:
        """Blocks that have not ended."""
        return [block for block in self.look(name)["blocks"] if block["ended"] is None]

    def wait_gone(self, name: str, timeout: float = 120.0) -> None:
        """Wait until no block is left."""
        wait_until(
            lambda: not self.active(name), timeout, what=f"the end of all blocks of {name}", interval=0.2
        )

    def wait_status(self, name: str, status: str, timeout: float = 120.0) -> dict[str, Any]:
        """Wait for a status of an endpoint; return all that is shown of it then."""

        def there() -> dict[str, Any] | None:
            shown = self.look(name)
            return shown if shown["status"] == status else None

        return wait_until(there, timeout, what=f"{name} to be {status}", interval=0.2) or {}


def ask(account: dict[str, str], method: str, path: str, body: Any = None) -> Any:
    """A request to the API with a user's ``url`` and ``token``."""
    import urllib.request

    headers = {"Authorization": f"Bearer {account['token']}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(account["url"] + path, data=data, headers=headers, method=method)
    with urllib.request.urlopen(request, timeout=30) as answer:
        text = answer.read()
    return json.loads(text) if text else None


@contextmanager
def elastic(folder: Path, **environ: str) -> Iterator[Elastic]:
    """A federation without a local endpoint, with a provisioner and a wheelhouse."""
    folder.chmod(0o755)
    wheels = wheelhouse()
    with Embedded(folder, workers=0, environ=environ) as umbel:
        (umbel.home / "wheelhouse").symlink_to(wheels)
        service = Elastic(umbel, folder, environ)
        try:
            service.start()
            yield service
        finally:
            service.close()


def broker(folder: Path, address: str, port: int) -> tuple[Service, dict[str, str]]:
    """A Redis at an address that nodes reach; the process, and the service's variables."""
    from federation.standalone.redis_server import server_binary

    folder.mkdir()
    password = os.urandom(16).hex()
    words = [server_binary(), "--bind", address, "--port", str(port), "--requirepass", password]
    words += ["--dir", str(folder), "--save", "", "--appendonly", "no"]
    service = Service(words, dict(os.environ), folder / "redis.log")
    wait_until(lambda: "eady to accept connections" in service.text(), 20.0, what="the broker")
    return service, {"UMBEL_BROKER_URL": f"redis://:{password}@{address}:{port}/0"}
