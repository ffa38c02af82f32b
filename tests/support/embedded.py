"""``python -m federation up`` for tests: started on free ports, inspected, broken on purpose, stopped.

::

    with Embedded(tmp_path) as umbel, umbel.executor() as executor:
        executor.submit(pow, 2, 10).result(timeout=30)
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from tests.support.wait import wait_until
from umbel import Client, Executor

ROOT = Path(__file__).resolve().parents[2]
#: Seconds within which a federation must be up, and within which it must be gone (the promise is 10).
START_DEADLINE, STOP_DEADLINE = 60.0, 15.0


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(**more: str) -> dict[str, str]:
    """This process's environment without Umbel's variables, able to import the checkout, and ``more``."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("UMBEL_")}
    return {**environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'sdk'}", **more}


def endpoint_command(*words: str) -> list[str]:
    """The command line ``umbel-endpoint WORDS``."""
    return [sys.executable, "-m", "endpoint_worker", *words]


def gone(process: psutil.Process) -> bool:
    """True when a process has ended, also when nobody has taken note of it yet."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE or not process.is_running()
    except psutil.NoSuchProcess:
        return True


def pids_with(word: str) -> list[int]:
    """Process ids of this machine's processes that have ``word`` as a word of their command line."""
    found = []
    for process in psutil.process_iter():
        try:
            if word in process.cmdline():
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def processes_of(folder: Path) -> list[psutil.Process]:
    """Other processes that have to do with ``folder`` by command line, environment or working directory."""
    text, found = str(folder), []
    for process in psutil.process_iter():
        try:
            signs = [*process.cmdline(), *process.environ().values(), process.cwd()]
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
        if process.pid != os.getpid() and any(text in sign for sign in signs):
            found.append(process)
    return found


class Service:
    """A program started for a test, with its output in a file."""

    def __init__(self, argv: list[str], environ: dict[str, str], output: Path):
        self.output = output
        with output.open("ab") as out:
            self.process = subprocess.Popen(
                argv,
                cwd=ROOT,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def wait(self, timeout: float = STOP_DEADLINE) -> int:
        """Wait for its end; return its exit code. Raises AssertionError when the time is over."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout:g} s:\n{self.text()}") from None

    def text(self) -> str:
        """What it wrote."""
        return self.output.read_text(errors="replace")


class HandEndpoint:
    """An endpoint configured and started by the ``umbel-endpoint`` command from a home of its own."""

    def __init__(self, umbel: Embedded, name: str, home: Path, slots: int, settings: str = ""):
        self.name, self.home, self.slots = name, home, slots
        home.mkdir(parents=True, exist_ok=True)
        self._environ = environment(UMBEL_HOME=str(home))
        account = umbel.account()
        run = subprocess.run(
            endpoint_command("configure", name, "--slots", str(slots)),
            env={**self._environ, "UMBEL_API_URL": account["url"], "UMBEL_TOKEN": account["token"]},
            cwd=home,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert run.returncode == 0, run.stdout + run.stderr
        self.folder = home / "endpoints" / name
        with (self.folder / "endpoint.toml").open("a") as file:
            file.write(settings)
        self._umbel = umbel
        self.service: Service | None = None

    def start(self) -> HandEndpoint:
        """Start it in the foreground and wait until the service calls it online."""
        self.service = Service(
            endpoint_command("start", self.name), self._environ, self.home / "endpoint.out"
        )
        self._umbel.wait_online(self.name)
        return self

    @property
    def pid(self) -> int:
        """Process id of its main process."""
        assert self.service is not None
        return self.service.process.pid

    def kill(self) -> None:
        """Kill its main process with SIGKILL."""
        assert self.service is not None
        self.service.process.kill()
        self.service.wait()

    def stop(self) -> None:
        """Ask it to stop, and see that it does; nothing happens when it has ended."""
        if self.service is not None and self.service.process.poll() is None:
            self.service.process.terminate()
            self.service.wait()


class Embedded:
    """A whole federation in ``tmp_path/home``, up for a ``with`` block or between start and stop."""

    def __init__(
        self, tmp_path: Path, workers: int = 2, *, flower: str = "", environ: dict[str, str] | None = None
    ):
        self.home = tmp_path / "home"
        self.workers = workers
        # the flag that starts Flower
        self.flower = flower
        self.port = free_port()
        self.flower_port = free_port() if flower else 0
        self.url = f"http://127.0.0.1:{self.port}"
        self.service: Service | None = None
        self._environ = environment(UMBEL_HOME=str(self.home), **(environ or {}))
        self._output = tmp_path / "up.out"
        self._endpoints: list[HandEndpoint] = []
        self._clients: list[Client] = []

    def __enter__(self) -> Embedded:
        try:
            return self.start()
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is not None:
                print(self.logs(), file=sys.stderr)
            for client in self._clients:
                client.close()
            for endpoint in self._endpoints:
                endpoint.stop()
            self.stop()
            wait_until(lambda: not processes_of(self.home), 5, what="the end of all processes")
        finally:
            for process in processes_of(self.home.parent):
                process.kill()

    def argv(self) -> list[str]:
        """The command line of ``up``."""
        argv = [sys.executable, "-m", "federation", "up", "--home", str(self.home), "--port", str(self.port)]
        argv += ["--workers", str(self.workers)]
        return argv + ([self.flower, "--flower-port", str(self.flower_port)] if self.flower else [])

    def start(self) -> Embedded:
        """Start it and wait until it says that it is ready: the API answers and its endpoint is online."""
        before = len(self._output.read_text()) if self._output.exists() else 0
        service = self.service = Service(self.argv(), self._environ, self._output)
        ready = "Umbel is ready"
        wait_until(
            lambda: ready in service.text()[before:] or service.process.poll() is not None,
            START_DEADLINE,
            what="the federation's start",
        )
        assert (
            service.process.poll() is None
        ), f"'up' ended with {service.process.returncode}:\n{service.text()}"
        return self

    def stop(self) -> None:
        """Ask it to stop with SIGTERM and see it end with exit code 0; nothing happens when it has ended."""
        if self.service is not None and self.service.process.poll() is None:
            self.service.process.terminate()
            assert self.service.wait() == 0, self.service.text()

    def account(self) -> dict[str, str]:
        """``url`` and ``token``, as ``up`` left them for the commands of this account."""
        return dict(json.loads((self.home / "client.json").read_text()))

    def client(self, **more: Any) -> Client:
        """A client, closed at the end of the ``with`` block."""
        client = Client(**{**self.account(), **more})
        self._clients.append(client)
        return client

    def executor(self, endpoint: str = "local", **more: Any) -> Executor:
        """An executor with a client of its own."""
        return Executor(endpoint, client=self.client(), **more)

    def endpoint(self, name: str, slots: int = 1, settings: str = "") -> HandEndpoint:
        """A further endpoint, configured in a home of its own beside this one's, started and online.

        ``settings``: tables for its endpoint.toml.
        """
        endpoint = HandEndpoint(self, name, self.home.parent / f"home-of-{name}", slots, settings)
        self._endpoints.append(endpoint)
        return endpoint.start()

    def status(self) -> dict[str, Any]:
        """What ``up`` writes into its status file."""
        return dict(json.loads((self.home / "status.json").read_text()))

    def pids(self) -> dict[str, int]:
        """Process ids of the running components: redis, web, collect, sweep, endpoint, flower."""
        return {name: entry["pid"] for name, entry in self.status()["components"].items()}

    def pid(self, component: str, timeout: float = 20.0) -> int:
        """Process id of a component; waits while it is being started again."""
        return wait_until(lambda: self.pids().get(component, 0), timeout, what=f"a running {component}")

    def kill(self, component: str, timeout: float = 10.0) -> int:
        """Kill a component with SIGKILL and wait for the next in its place; return that one's process id."""
        old = self.pid(component)
        os.kill(old, signal.SIGKILL)
        wait_until(lambda: self.pids().get(component, old) != old, timeout, what=f"another {component}")
        return self.pid(component)

    def wait_online(self, endpoint: str = "local", state: str = "online", timeout: float = 30.0) -> None:
        """Wait until the service says that an endpoint is ``state``."""
        token = self.account()["token"]
        request = urllib.request.Request(
            f"{self.url}/v1/endpoints/{endpoint}", headers={"Authorization": f"Bearer {token}"}
        )

        def there() -> bool:
            try:
                with urllib.request.urlopen(request, timeout=5) as answer:
                    return bool(json.load(answer)["state"] == state)
            except OSError:
                return False

        wait_until(there, timeout, what=f"endpoint {endpoint} to be {state}")

    def logs(self, lines: int = 40) -> str:
        """The last lines of every log, for the report of a failure."""
        folder = self.home.parent
        files = [self._output, *sorted(folder.glob("**/*.log")), *folder.glob("home-of-*/*.out")]
        parts = []
        for file in files:
            if file.exists():
                text = "\n".join(file.read_text(errors="replace").splitlines()[-lines:])
                parts.append(f"----- {file.relative_to(folder)}\n{text}")
        return "\n".join(parts)
