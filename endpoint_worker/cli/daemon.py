"""Starts workers in the background, starts them again if they end unexpectedly, and stops running ones.

``detach`` starts a *keeper*, a small process that holds the lock of the node, starts the worker and waits for
its end. The node's pid file names both.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

import endpoint_worker

from ..config.directory import DirectoryError, EndpointDirectory
from ..config.identity import SUFFIX

#: A worker in the background must have its lock within this long (seconds).
START_TIMEOUT = 20.0
#: Seconds before a worker that ended unexpectedly is started again: doubled each time up to the maximum.
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
#: A worker that ran this long (seconds) is started again after the first pause.
STABLE_AFTER = 300.0
#: Exit statuses after which a worker is not started again: it was stopped, or has an error that a restart
#: does not fix.
FINAL = (0, 2)


def log_file(directory: EndpointDirectory, node: str) -> Path:
    """Log file of a node that was started in the background."""
    return directory.logs / f"{node}.log"


def newest_log(directory: EndpointDirectory, node: str) -> Path | None:
    """Return the newest log file of a node; the default name has a suffix that changes with each boot."""
    pattern = re.compile(rf"{re.escape(node)}(-[0-9a-f]{{{SUFFIX}}})?\.log")
    found = [file for file in directory.logs.glob("*.log") if pattern.fullmatch(file.name)]
    return max(found, key=lambda file: file.stat().st_mtime, default=None)


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
        if directory.keeper_of(node) == process.pid and (pid := directory.running().get(node)) != process.pid:
            return pid or 0
        if process.poll() is not None:
            break
        time.sleep(0.05)
    text = early.read_text(errors="replace").strip()[-2000:]
    raise DirectoryError(f"the worker did not start: {text or f'see {log_file(directory, node)}'}")


class Keeper:
    """Runs the worker of a node, and runs it again if it ends unexpectedly.

    ``arguments``: those of ``umbel-endpoint`` for the worker; ``log``: its log file.
    """

    def __init__(self, directory: EndpointDirectory, node: str, arguments: Sequence[str], log: Path):
        self._directory, self._node, self._arguments, self._log = directory, node, arguments, log
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None

    def run(self) -> int:
        """Return the exit status of the last worker, after ``stop`` or a status that is final."""
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        pause = FIRST_PAUSE
        with self._directory.lock(self._node, keeper=os.getpid()) as lock:
            while True:
                began = time.monotonic()
                status = self._run_worker(lock)
                started = self._directory.running().get(self._node) != os.getpid()
                self._directory.record(lock, os.getpid(), os.getpid())
                if status in FINAL or self._stopping.is_set() or not started:
                    return status
                if time.monotonic() - began >= STABLE_AFTER:
                    pause = FIRST_PAUSE
                self._note(
                    f"the worker ended unexpectedly with status {status}; starting it again in {pause:g} s"
                )
                if self._stopping.wait(pause):
                    return 0
                pause = min(2 * pause, LONGEST_PAUSE)

    def _run_worker(self, lock: int) -> int:
        words = [*self._arguments, "--lock", str(lock), "--keeper", str(os.getpid())]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "endpoint_worker", *words], stdin=subprocess.DEVNULL, pass_fds=(lock,)
        )
        if self._stopping.is_set():
            self._process.terminate()
        return self._process.wait()

    def _stop(self, *_: object) -> None:
        self._stopping.set()
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()

    def _note(self, text: str) -> None:
        with self._log.open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%F %T')} WARNING keeper of node {self._node}: {text}\n")


def stop(directory: EndpointDirectory, node: str, pid: int, timeout: float) -> bool:
    """Terminate a node and its keeper and wait; return False if one still runs after ``timeout`` seconds."""
    keeper = directory.keeper_of(node)
    # the keeper may have been killed, and its process id be another program's
    processes = {pid, keeper} if keeper and _is_worker(keeper) else {pid}
    try:
        for process in sorted(processes, key=lambda process: process != keeper):
            _terminate(process)
    except PermissionError:
        raise DirectoryError(f"process {pid} belongs to another account: stop it as that account") from None
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if not any(map(_alive, processes)):
            return True
        time.sleep(0.05)
    return False


def _terminate(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        pass


def _is_worker(pid: int) -> bool:
    try:
        return "endpoint_worker" in psutil.Process(pid).cmdline()
    except psutil.Error:
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
