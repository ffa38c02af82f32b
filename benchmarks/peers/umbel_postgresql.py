"""Umbel with its ledger in PostgreSQL, which confirms a commit when it is on disk: W18."""

from __future__ import annotations

import json
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from benchmarks.functions import BY_NAME
from tests.support import postgres
from umbel import Client, Executor

from .umbel_service import ENDPOINT, START_LIMIT, UmbelService


class OneAndOne(UmbelService):
    """One process of the web server and one collector."""

    packages = (*UmbelService.packages, "psycopg")
    roles = (*UmbelService.roles, ("postgres", "postgresql"))

    def start(self) -> None:
        """Start a PostgreSQL server with a new database, then the service."""
        if postgres.binaries() is None:
            raise RuntimeError(postgres.MISSING)
        self._stack = ExitStack()
        server = self._stack.enter_context(postgres.running_server(durable=True))
        self.settings = {"UMBEL_DATABASE_URL": server.url(server.new_database())}
        super().start()

    def stop(self) -> None:
        """Stop the service, then the server."""
        super().stop()
        self._stack.close()


class TwoAndTwo(OneAndOne):
    """Two processes of the web server with a client each, and two collectors."""

    _second: Executor | None = None

    def start(self) -> None:
        """Start what ``OneAndOne`` starts, then the other two processes."""
        super().start()
        home = ["--home", str(self.folder / "home")]
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        environ = {**self.search_path(), **self.settings}
        self.spawn([sys.executable, "-m", "federation", "collect", *home], environ)
        self.spawn([sys.executable, "-m", "webapp.serve", *home, "--port", str(port)], environ)
        account = json.loads((self.folder / "home" / "client.json").read_text(encoding="utf-8"))
        self._wait(f"http://127.0.0.1:{port}/health")
        self._client = Client(f"http://127.0.0.1:{port}", account["token"])
        self._second = Executor(ENDPOINT, client=self._client)

    def _wait(self, url: str) -> None:
        deadline = time.monotonic() + START_LIMIT
        while True:
            try:
                urllib.request.urlopen(url, timeout=5).close()
                return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                if time.monotonic() > deadline:
                    raise RuntimeError(f"the second web server did not start:\n{self.log_end()}") from None
                time.sleep(0.05)

    def run(self, function: str, items: Sequence[Any]) -> list[Any]:
        """Map half of the calls through each web server."""
        if len(items) == 1:
            return super().run(function, items)
        assert self._executor is not None and self._second is not None, "start it first"
        half = len(items) // 2
        # both are submitted before any result is read
        halves = [
            self._executor.map(BY_NAME[function], items[:half]),
            self._second.map(BY_NAME[function], items[half:]),
        ]
        return [result for results in halves for result in results]

    def stop(self) -> None:
        """Close the second client, then stop everything."""
        if self._second is not None:
            self._second.shutdown()
            self._client.close()
        super().stop()
