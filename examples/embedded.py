"""A whole Umbel for as long as a ``with`` block lasts: in a temporary home, stopped and wiped afterwards."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parents[1]
START_DEADLINE = 60.0  # seconds until the endpoint must be online
STOP_DEADLINE = 15.0  # seconds until every process must be gone


@contextmanager
def embedded_federation(workers: int = 2) -> Iterator[str]:
    """Run ``python -m federation up`` with ``workers`` slots and yield its URL; the SDK finds it by itself.

    Raises RuntimeError with the end of the service's log if it does not start, or not stop, in time.
    """
    with tempfile.TemporaryDirectory(prefix="umbel-", ignore_cleanup_errors=True) as folder:
        _forget_other_services(home=folder)
        port = _free_port()
        log = Path(folder, "up.log")
        with log.open("wb") as output:
            # A session of its own: Ctrl-C is for this program, which then stops the service in good order.
            process = subprocess.Popen(
                [sys.executable, "-m", "federation", "up", "--home", folder, "--port", str(port),
                 "--workers", str(workers)],
                cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        try:
            _wait_until_online(process, f"http://127.0.0.1:{port}", Path(folder, "client.json"), log)
            yield f"http://127.0.0.1:{port}"
        finally:
            _stop(process, log)


def exit_on_signals() -> None:
    """Make SIGTERM and SIGHUP end the program as Ctrl-C does, so that ``with`` blocks clean up."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGHUP, leave)


def _forget_other_services(home: str) -> None:
    for name in [name for name in os.environ if name.startswith("UMBEL_")]:
        del os.environ[name]
    os.environ["UMBEL_HOME"] = home


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_online(process: subprocess.Popen[bytes], url: str, token_file: Path, log: Path) -> None:
    deadline = time.monotonic() + START_DEADLINE
    while not _online(url, token_file):
        if process.poll() is not None:
            raise RuntimeError(f"the service ended with status {process.returncode}:\n{_tail(log)}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"the endpoint is not online after {START_DEADLINE:g} s:\n{_tail(log)}")
        time.sleep(0.05)


def _online(url: str, token_file: Path) -> bool:
    """Tell whether the service answers and its endpoint has a live worker."""
    try:
        token = json.loads(token_file.read_text())["token"]
        request = urllib.request.Request(
            f"{url}/v1/endpoints/local", headers={"Authorization": f"Bearer {token}"}
        )
        with urllib.request.urlopen(request, timeout=5) as answer:
            return bool(json.load(answer)["state"] == "online")
    except (
        OSError,
        ValueError,
    ):  # no token file yet, or half of one; nobody listens yet; 404 until registered
        return False


def _stop(process: subprocess.Popen[bytes], log: Path) -> None:
    """Ask the service to stop and wait until it has; a second Ctrl-C must not cut this short."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process.terminate()
        process.wait(STOP_DEADLINE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise RuntimeError(f"the service did not stop within {STOP_DEADLINE:g} s:\n{_tail(log)}") from None
    finally:
        signal.signal(signal.SIGINT, before)


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-30:])
