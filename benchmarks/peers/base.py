"""Base of the adapters: start a system with two worker slots, run calls on it, stop it."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

#: Directory that contains the package ``benchmarks``.
ROOT = Path(__file__).resolve().parents[2]


class Peer:
    """Base of all adapters. ``folder``: for its files; ``redis_port``: port of its Redis if needed."""

    #: Whether a session starts a Redis first.
    needs_redis = False
    #: Distributions whose versions are recorded.
    packages: tuple[str, ...] = ()
    #: (part of a command line, role) of its processes, tried in order.
    roles: tuple[tuple[str, str], ...] = ()

    def __init__(self, folder: Path, redis_port: int):
        self.folder, self.redis_port = folder, redis_port
        self._children: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Start the system; it may return before the system is ready, if ``run`` waits for it."""
        raise NotImplementedError

    def run(self, function: str, items: Sequence[Any]) -> list[Any]:
        """Call the function of that name with each item; return all results in order."""
        raise NotImplementedError

    def run_each(self, calls: Iterable[tuple[Callable[..., Any], tuple[Any, ...]]]) -> list[Any]:
        """Make calls of different functions; return all results in order."""
        raise NotImplementedError

    def run_ahead(self, function: str, items: Iterable[Any], ahead: int) -> Iterator[Any]:
        """Yield the results in order; submit at most ``ahead`` calls ahead of the results read."""
        raise NotImplementedError

    def stop(self) -> None:
        """Stop the system."""
        self.end_children()

    def spawn(
        self, command: Sequence[str], environ: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a child process; its output goes to ``output.log`` in the session's directory."""
        with (self.folder / "output.log").open("ab") as output:
            child = subprocess.Popen(
                list(command), cwd=self.folder, env={**os.environ, **(environ or {})},
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip
        self._children.append(child)
        return child

    def end_children(self, grace: float = 15.0) -> None:
        """End the children of ``spawn`` with SIGTERM, and after ``grace`` seconds with SIGKILL."""
        for child in self._children:
            if child.poll() is None:
                child.terminate()
        deadline = time.monotonic() + grace
        for child in self._children:
            try:
                child.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self._children = []

    def log_end(self) -> str:
        """Return the last lines of the children's output."""
        log = self.folder / "output.log"
        return "\n".join(log.read_text(errors="replace").splitlines()[-15:]) if log.exists() else ""
