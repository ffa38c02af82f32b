"""Starts workers in the background and stops running ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import endpoint_worker

from ..config.directory import DirectoryError, EndpointDirectory

#: A worker in the background must have its lock within this long (seconds).
START_TIMEOUT = 20.0


def log_file(directory: EndpointDirectory, node: str) -> Path:
    """Log file of a node that was started in the background."""
    return directory.logs / f"{node}.log"


def spawn(arguments: Sequence[str], output: Path) -> subprocess.Popen[bytes]:
    """Start ``umbel-endpoint ARGUMENTS`` in its own session; its output goes to a new file ``output``."""
    with output.open("wb") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "endpoint_worker", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd="/",
            env={**os.environ, "PYTHONPATH": python_path()},
            start_new_session=True,
        )


def detach(directory: EndpointDirectory, node: str, arguments: list[str]) -> int:
    """Start a worker in the background; return its process id once it is up. Raises DirectoryError."""
    directory.logs.mkdir(parents=True, exist_ok=True)
    early = directory.logs / f"{node}.err"
    process = spawn(arguments, early)
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        if directory.running().get(node) == process.pid:
            return process.pid
        if process.poll() is not None:
            break
        time.sleep(0.05)
    text = early.read_text(errors="replace").strip()[-2000:]
    raise DirectoryError(f"the worker did not start: {text or f'see {log_file(directory, node)}'}")


def stop(pid: int, timeout: float) -> bool:
    """Terminate a process and wait; return False if it still runs after ``timeout`` seconds."""
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return True
    except PermissionError:
        raise DirectoryError(f"process {pid} belongs to another account: stop it as that account") from None
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if not _alive(pid):
            return True
        time.sleep(0.05)
    return False


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        # a zombie does not count as running
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True


def python_path() -> str:
    """Return the ``PYTHONPATH`` with which a process in another directory finds this package."""
    # this process may have been started inside a checkout, the child starts elsewhere
    directories = [
        os.path.abspath(directory)
        for directory in os.environ.get("PYTHONPATH", "").split(os.pathsep)
        if directory
    ]
    return os.pathsep.join(
        dict.fromkeys([*directories, str(Path(endpoint_worker.__file__).resolve().parents[1])])
    )
