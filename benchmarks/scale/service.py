"""Umbel with simulated endpoints instead of a real one."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen

from benchmarks.functions import same
from benchmarks.peers.base import ROOT
from benchmarks.peers.umbel_service import UmbelService
from federation.config.settings import load
from federation.context import open_federation
from federation.registry import users
from umbel import Client, Executor, UmbelError
from umbel.protocol.envelope import Signer, new_private_key

#: Time limit for simulated nodes to be confirmed by the service, seconds.
CONFIRM_LIMIT = 180.0
#: Unfinished tasks that the service accepts.
MOST_CALLS = "3000000"
#: The small endpoint that runs the no-ops before the first measurement, and its slots.
SMALL, SMALL_SLOTS = "small", 64


@dataclass
class Nodes:
    """The simulated nodes of one endpoint, in a process of their own."""

    endpoint: str
    count: int
    slots: int
    process: Popen[bytes]
    file: Path

    def statistics(self) -> dict[str, int]:
        """Return the process's latest counts: see ``Fleet.statistics``."""
        try:
            return dict(json.loads(self.file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return {"known": 0, "executed": 0, "again": 0, "bundles": 0, "busy": 0, "waiting": 0}

    def wait_known(self) -> float:
        """Wait until the service has confirmed all nodes; return the seconds that it took."""
        began = time.monotonic()
        while self.statistics()["known"] < self.count:
            if self.process.poll() is not None or time.monotonic() - began > CONFIRM_LIMIT:
                raise RuntimeError(f"the nodes of {self.endpoint} are not confirmed: {self.statistics()}")
            time.sleep(0.1)
        return time.monotonic() - began

    def stop(self) -> dict[str, int]:
        """End the process; return its last counts."""
        self.process.terminate()
        self.process.wait(15)
        return self.statistics()


class ScaleService(UmbelService):
    """Default settings but the limits of unfinished tasks; a simulated endpoint with 64 slots."""

    roles = (
        ("benchmarks.nodes", "nodes"), ("benchmarks.scale", "users"), *UmbelService.roles,
    )  # fmt: skip

    def start(self) -> None:
        """Start the service and its small endpoint."""
        limits = {"UMBEL_MAX_ENDPOINT_CALLS": MOST_CALLS, "UMBEL_MAX_USER_CALLS": MOST_CALLS}
        self.serve(0, self._healthy, limits)
        self.home = self.folder / "home"
        self.nodes: dict[str, Nodes] = {}
        self.add_endpoint(SMALL, 1, SMALL_SLOTS).wait_known()
        self._executor = Executor(SMALL)

    def _healthy(self) -> bool:
        try:
            with Client(patience=1.0) as client:
                return client.health()["status"] == "ok"
        except UmbelError:  # no token file or no web server yet
            return False

    @property
    def url(self) -> str:
        """Address of the service."""
        return str(json.loads((self.home / "client.json").read_text(encoding="utf-8"))["url"])

    def add_endpoint(
        self, name: str, nodes: int, slots: int, seconds: float = 0.0, client: Client | None = None
    ) -> Nodes:
        """Register an endpoint and start its simulated nodes, whose calls take so many seconds.

        After a restart of the service it has been registered before. ``client``: of its owner.
        """
        file = self.folder / f"{name}.json"
        if not file.exists():
            key = new_private_key()
            owner = client or Client()
            record = owner.register_endpoint(name, Signer(key).public_key)
            file.write_text(json.dumps({**record["credentials"], "key": key.hex()}), encoding="utf-8")
        return self._start_nodes(name, file, nodes, slots, seconds)

    def _start_nodes(self, name: str, file: Path, nodes: int, slots: int, seconds: float) -> Nodes:
        statistics = self.folder / f"{name}.statistics"
        statistics.unlink(missing_ok=True)
        command = [sys.executable, "-m", "benchmarks.nodes", str(file), "--nodes", str(nodes)]
        command += ["--slots", str(slots), "--seconds", str(seconds), "--statistics", str(statistics)]
        process = self.spawn(command, {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "sdk")])})
        found = Nodes(name, nodes, slots, process, statistics)
        self.nodes[name] = found
        return found

    def add_user(self, name: str) -> Client:
        """Create a user; return a client with its token."""
        fed = open_federation(load(self.home, environ={}))
        try:
            return Client(self.url, users.create_token(fed, users.ensure_user(fed, name), "benchmark"))
        finally:
            fed.close()

    def function(self, client: Client) -> str:
        """Register the no-op for a user; return its id."""
        return client.register_function(same)
