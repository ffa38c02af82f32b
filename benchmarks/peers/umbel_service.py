"""Umbel in its default setup: ``python -m federation up`` with two slots, and an ``umbel.Executor``."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks.functions import BY_NAME
from benchmarks.works import SLOTS
from umbel import Client, Executor, UmbelError

from .base import ROOT, Peer

#: Time limit for the endpoint to come online, seconds.
START_LIMIT = 60.0
ENDPOINT = "local"


class UmbelService(Peer):
    """Default settings: REST, durable ledger (SQLite, synchronous=FULL), embedded Redis."""

    packages = ("umbel", "celery", "redis", "SQLAlchemy")
    roles = (
        ("webapp", "web"), ("federation collect", "collect"), ("federation sweep", "sweep"),
        ("federation up", "up"), ("redis-server", "redis"), ("endpoint_worker.child.main", "runners"),
        ("endpoint_worker", "endpoint"), ("umbel-endpoint", "endpoint"),
    )  # fmt: skip

    #: Settings of the service, as environment variables.
    settings: Mapping[str, str] = {}
    _executor: Executor | None = None

    def start(self) -> None:
        """Start a service on a free port with a new home directory; wait until its endpoint is online."""
        self.serve(SLOTS, self._online)
        self._executor = Executor(ENDPOINT)

    def serve(
        self, workers: int, ready: Callable[[], bool], environ: Mapping[str, str] | None = None
    ) -> None:
        """Start a service whose own endpoint has so many slots (0: none); wait until it is ready."""
        for name in [name for name in os.environ if name.startswith("UMBEL_") and "BENCH" not in name]:
            del os.environ[name]
        home = self.folder / "home"
        os.environ["UMBEL_HOME"] = str(home)
        command = [sys.executable, "-m", "federation", "up", "--home", str(home), "--port", "0"]
        environment = {**self.search_path(), **self.settings, **(environ or {})}
        service = self.spawn([*command, "--workers", str(workers)], environment)
        deadline = time.monotonic() + START_LIMIT
        while not ready():
            if service.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the service did not start:\n{self.log_end()}")
            time.sleep(0.05)

    def search_path(self) -> dict[str, str]:
        """Return the environment variable with which Python finds the service."""
        paths = [os.environ.get("PYTHONPATH", ""), str(ROOT), str(ROOT / "sdk")]
        return {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}

    def _online(self) -> bool:
        try:
            with Client(patience=1.0) as client:
                return bool(client.get_endpoint(ENDPOINT)["state"] == "online")
        except UmbelError:  # no token file, no web server or no endpoint yet
            return False

    def run(self, function: str, items: Sequence[Any]) -> list[Any]:
        """Map, or submit a single call."""
        assert self._executor is not None, "start it first"
        if len(items) == 1:
            return [self._executor.submit(BY_NAME[function], items[0]).result()]
        return list(self._executor.map(BY_NAME[function], items))

    def run_each(self, calls: Iterable[tuple[Callable[..., Any], tuple[Any, ...]]]) -> list[Any]:
        """Submit every call."""
        assert self._executor is not None, "start it first"
        futures = [self._executor.submit(fn, *args) for fn, args in calls]
        return [future.result() for future in futures]

    def run_ahead(self, function: str, items: Iterable[Any], ahead: int) -> Iterator[Any]:
        """Map with a buffer of ``ahead`` calls."""
        assert self._executor is not None, "start it first"
        return self._executor.map(BY_NAME[function], items, buffersize=ahead)

    def stop(self) -> None:
        """Close the client, stop the service."""
        if self._executor is not None:
            self._executor.shutdown()
        self.end_children()
